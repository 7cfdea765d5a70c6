package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// explained is a part of what `kubectl sidestep explain -o json` prints.
type explained struct {
	Links []struct{ Name, State, Detail, Fix string }
}

// plugin builds kubectl's plugin and returns the directory that it is in.
func plugin(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", dir, "./cmd/kubectl-sidestep")
	build.Dir = filepath.Join(scripts, "../..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

// explain returns the first broken link of the pod's chain as "name: detail",
// or "" if none is.
func (p pod) explain(t *testing.T, plugin string) string {
	t.Helper()
	out, err := tryInNode(nil, "bash", "-c", `PATH=$0:$PATH exec kubectl sidestep explain --namespace "$1" "$2" --output json`,
		plugin, p.namespace, p.name)
	var e explained
	if json.Unmarshal([]byte(out), &e) != nil || len(e.Links) == 0 {
		t.Fatalf("%s: %v: %s", p.name, err, out)
	}
	for _, l := range e.Links {
		if l.State == "BROKEN" {
			if err == nil {
				t.Errorf("%s: the exit status is 0 with a broken link", p.name)
			}
			if l.Fix == "" {
				t.Errorf("%s: no fix for %s: %s", p.name, l.Name, l.Detail)
			}
			return l.Name + ": " + l.Detail
		}
	}
	if err != nil {
		t.Errorf("%s: %v with no broken link", p.name, err)
	}
	return ""
}

// isExplained waits until explain names the link, as a prefix; "": none is
// broken. A refusal is remembered for some seconds: a pod that asked within them
// was answered by what Entra said of its token before, and so it asks again.
func (p pod) isExplained(t *testing.T, dir, link string) {
	t.Helper()
	eventually(t, 40*time.Second, func() error {
		got := p.explain(t, dir)
		if strings.HasPrefix(got, link) && (link == "") == (got == "") {
			t.Logf("%-16s %s", p.name, got)
			return nil
		}
		_, err := p.tryGet(holdTime, tokenPath+url.QueryEscape(vaultURL))
		return errors.Join(fmt.Errorf("%s: %q, want %q", p.name, got, link), err)
	})
}

// For each link between a label and a token there is a pod for which it is
// broken, and whose user learns which it is.
func TestExplain(t *testing.T) {
	needNode(t)
	t.Parallel() // some are held
	const team = "team-explain"
	one, two := identity("app-one"), identity("app-two")
	unlabelled := account(team, "labelled", map[string]string{annotationClient: one.ClientID})
	unlabelled.Labels = map[string]string{labelUse: "true"}
	apply(t, namespace(team, "restricted"), unlabelled,
		account(team, "fine", map[string]string{annotationClient: one.ClientID}),
		account(team, "nobody", nil),
		account(team, "abroad", map[string]string{annotationClient: two.ClientID, annotationTenant: known.Tenants[1]}),
		account(team, "stranger", map[string]string{annotationClient: one.ClientID}),
		account(team, "issuer", map[string]string{annotationClient: identity("other-issuer").ClientID}),
		account(team, "audience", map[string]string{annotationClient: identity("other-audience").ClientID}),
		account(team, "late", map[string]string{annotationClient: two.ClientID}),
		account(team, "cut-off", map[string]string{annotationClient: two.ClientID}))
	t.Cleanup(func() { kubectl(t, "delete", "namespace", team, "--wait=false") })

	of := func(account string) pod {
		return pod{namespace: team, name: account, account: account, labelled: true, token: newVolume}
	}
	noLabel, accountLabel, volume, exempt, cutOff := of("fine"), of("labelled"), of("fine"), of("default"), of("cut-off")
	noLabel.name, noLabel.labelled = "no-label", false
	accountLabel.labelled = false
	volume.name, volume.token = "no-volume", noVolume
	otherAudience := of("fine")
	otherAudience.name = "volume-audience"
	otherAudience.change = func(o *corev1.Pod) {
		o.Spec.Volumes[0].Projected.Sources[0].ServiceAccountToken.Audience = "https://vault.azure.net"
	}
	exempt.namespace, exempt.name, exempt.labels = "kube-system", "explain-exempt", map[string]string{"kubernetes.azure.com/managedby": "aks"}
	cutOff.env = map[string]string{"AZURE_AUTHORITY_HOST": "https://login.microsoftonline.us/"} // no way leads there

	cases := []struct {
		pod  pod
		link string // "" for none
	}{
		{of("fine"), ""},
		{noLabel, "label: the pod has no label azure.workload.identity/use"},
		{accountLabel, "label: the service account has the label, the pod has not"},
		{volume, "assertion: no volume projects"},
		{otherAudience, "assertion: the token in volume " + newVolume.name + " is for the audience https://vault.azure.net"},
		{of("nobody"), "client id: the service account nobody has no annotation"},
		{of("abroad"), "exchange: AADSTS700016: there is no client "},
		{of("stranger"), "exchange: AADSTS700213: "},
		{of("issuer"), "exchange: AADSTS700211: "},
		{of("audience"), "exchange: AADSTS700212: "},
		{of("late"), "exchange: the pod's service account token has expired"},
		{exempt, "rules: verdict pass by exception 1"},
		{cutOff, "exchange: Entra cannot be reached"},
	}
	var pods []pod
	for _, c := range cases {
		pods = append(pods, c.pod)
	}
	start(t, pods...)
	of("late").expireToken(t)
	var asking sync.WaitGroup
	for _, p := range pods {
		asking.Go(func() {
			if _, err := p.tryGet(holdTime, tokenPath+url.QueryEscape(vaultURL)); err != nil {
				t.Error(err)
			}
		})
	}
	asking.Wait()

	dir := plugin(t)
	for _, c := range cases {
		c.pod.isExplained(t, dir, c.link)
	}
	t.Log(inNode(t, "bash", "-c", fmt.Sprintf(`PATH=%s:$PATH; kubectl sidestep status; kubectl sidestep explain -n %s stranger || true`, dir, team)))
	if out := inNode(t, "bash", "-c", `PATH=$0:$PATH kubectl sidestep status --output json`, dir); !slices.Contains(strings.Fields(out), `"ready":`) {
		t.Errorf("status: %s", out)
	}
}
