package e2e

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/test/standins/entra"
)

// witness is a pod of which things are changed: by them it is seen what the
// agent knows. It is steered between the faults.
type witness struct{ pod }

// witnessName is its identity, and its service account, which no other pod of
// the test has.
const witnessName = "app-two"

func startWitness(t *testing.T) witness {
	t.Helper()
	p := pod{namespace: hostNamespace, name: "witness", account: witnessName, labelled: true, token: newVolume}
	start(t, p)
	w := witness{p.direct(t)}
	w.becomes(t, witnessName)
	return w
}

// label changes the pod's label: "=true", or "-" for none.
func (w witness) label(t *testing.T, change string) {
	t.Helper()
	kubectl(t, "-n", w.namespace, "label", "pod", w.name, "--overwrite", labelUse+change)
}

// steered gives it back its label.
func (w witness) steered(t *testing.T) {
	t.Helper()
	w.label(t, "=true")
	w.reached(t, witnessName)
}

// annotate changes its service account's client id: "=" and an id, or "-".
func (w witness) annotate(t *testing.T, change string) {
	t.Helper()
	kubectl(t, "-n", w.namespace, "annotate", "serviceaccount", w.account, "--overwrite", annotationClient+change)
}

// nudge has the API server tell the agent something about the pod that changes
// nothing.
func (w witness) nudge(t *testing.T) {
	t.Helper()
	kubectl(t, "-n", w.namespace, "annotate", "pod", w.name, "--overwrite", fmt.Sprintf("sidestep.test/nudge=%d", time.Now().UnixNano()))
}

// version returns the API server's present resource version.
func (w witness) version(t *testing.T) string {
	t.Helper()
	version := kubectl(t, "get", "--raw", "/api/v1/namespaces/"+w.namespace+"/pods?limit=1")
	_, version, _ = strings.Cut(version, `"resourceVersion":"`)
	version, _, _ = strings.Cut(version, `"`)
	return version
}

// reached waits until the pod gets what it should, however long the agent's
// pause before its next try may be, and returns how long that took.
func (w witness) reached(t *testing.T, want string) string {
	t.Helper()
	return seconds(eventually(t, 90*time.Second, func() error {
		if got := w.who(t); got != want {
			return fmt.Errorf("the witness gets %q, want %q", got, want)
		}
		return nil
	}))
}

// changes has a label and an annotation come through, takes them back, and
// says how long each took.
func (w witness) changes(t *testing.T) string {
	t.Helper()
	changed := time.Now()
	w.annotate(t, "-")
	w.label(t, "-")
	label := w.reached(t, nodes)
	w.label(t, "=true")
	w.reached(t, notFound)
	annotation := seconds(time.Since(changed))
	w.annotate(t, "="+clientOf(t, witnessName))
	w.reached(t, witnessName)
	return fmt.Sprintf("then a label came through after %s, an annotation after %s", label, annotation)
}

// newTokens has the witness ask for tokens that are not to be cached ones, as
// often as the agent allows that, and returns for how many Entra was asked.
func (w witness) newTokens(t *testing.T, during time.Duration) (issued int) {
	t.Helper()
	asked := sinceNow[entra.Entry](t, "entra")
	for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(min(11*time.Second, time.Until(end))) {
		got := w.get(t, tokenPath+url.QueryEscape(vaultURL)+"&bypass_cache=true")
		if got.whose() != witnessName {
			t.Errorf("meanwhile a new token: %+v", got)
		}
	}
	for _, e := range asked() {
		if e.Kind == entra.Token && e.Verified && e.Error == "" && e.Subject == "system:serviceaccount:"+w.namespace+":"+witnessName {
			issued++
		}
	}
	if issued == 0 {
		t.Error("no new token came from Entra meanwhile")
	}
	return issued
}
