package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/test/standins/entra"
)

// What waiting cannot fix is said at once, with Entra's code where Entra was
// asked: a status that clients retry would make it a matter of minutes.
func TestWrongSetUp(t *testing.T) {
	needNode(t)
	nobody := pod{namespace: teamA, name: "nobody", account: "nobody", labelled: true, token: newVolume}
	knows := pod{namespace: teamA, name: "asks-for-nothing", account: "app-one", labelled: true, token: newVolume}
	start(t, nobody, knows)
	if got := nobody.who(t); got != notFound {
		t.Errorf("without a client id: %q, want %q", got, notFound)
	}
	got := knows.get(t, tokenPath+url.QueryEscape("https://nothing.example"))
	if got.Status != 400 || !strings.Contains(got.Body, "AADSTS500011") {
		t.Errorf("for a resource that there is not: %+v, want a 400 with AADSTS500011", got)
	}
	t.Logf("unknown resource, after %d ms: %s", got.MS, got.Body)
}

// holdTime is longer than the broker may hold a request.
const holdTime = "-timeout=40s"

// That no federated credential matches may be a matter of seconds for a young
// workload, and is a mistake for an old one.
func TestMissingFederation(t *testing.T) {
	needNode(t)
	t.Parallel() // last: the stranger is to be two minutes old
	young := stranger
	young.name = "young-stranger"
	start(t, young)
	asked := sinceNow[entra.Entry](t, "entra")
	got := young.get(t, holdTime, tokenPath+url.QueryEscape(vaultURL))
	if got.Status != 429 || got.RetryAfter == "" {
		t.Errorf("a young pod: %+v, want a 429 with Retry-After", got)
	}
	t.Logf("a young pod, after %d ms: %d, Retry-After %s, %s", got.MS, got.Status, got.RetryAfter, got.Body)
	for _, e := range asked() {
		if e.Kind == entra.Token && e.Subject == "system:serviceaccount:team-b:stranger" && e.Verified {
			t.Errorf("Entra took the assertion: %+v", e)
		}
	}
	eventually(t, 150*time.Second, func() error {
		created, err := time.Parse(time.RFC3339, kubectl(t, "-n", teamB, "get", "pod", stranger.name,
			"-o", "jsonpath={.metadata.creationTimestamp}"))
		if err != nil {
			t.Fatal(err)
		}
		if age := time.Since(created); age < 2*time.Minute+10*time.Second {
			return fmt.Errorf("the pod is %s old", age)
		}
		return nil
	})
	got = stranger.get(t, tokenPath+url.QueryEscape(vaultURL))
	if got.Status != 400 || !strings.Contains(got.Body, "AADSTS700213") {
		t.Errorf("an old pod: %+v, want a 400 with AADSTS700213", got)
	}
	t.Logf("an old pod, after %d ms: %s", got.MS, got.Body)
}

// An assertion that has expired never leaves the node.
func TestExpiredAssertion(t *testing.T) {
	needNode(t)
	t.Parallel() // it may be held
	late := pod{namespace: teamB, name: "late", account: "bare", labelled: true, token: newVolume}
	start(t, late)
	late.expireToken(t)
	asked := sinceNow[entra.Entry](t, "entra")
	got := late.get(t, holdTime, tokenPath+url.QueryEscape(vaultURL))
	if got.Status != 429 || got.RetryAfter == "" {
		t.Errorf("%+v, want a 429 with Retry-After", got)
	}
	t.Logf("after %d ms: %d, Retry-After %s, %s", got.MS, got.Status, got.RetryAfter, got.Body)
	for _, e := range asked() {
		if e.Kind == entra.Token && e.Subject == "system:serviceaccount:team-b:bare" {
			t.Errorf("Entra was sent it: %+v", e)
		}
	}
}

// putExpired writes its input to the file $0 of the volume $1 and makes the
// volume read-only, since kubelet would put its own token back while the agent
// holds a request. Kubelet does so at any of a pod's syncs, also between the
// two: then they are repeated.
const putExpired = `
expired=$(cat)
for attempt in {1..20}; do
  mount -o remount,rw "$1" && printf %s "$expired" >"$0"
  mount -o remount,ro "$1" && [[ $(cat "$0") == "$expired" ]] && exit
  sleep 0.1
done
echo "kubelet puts its own token back" >&2
exit 1`

// expireToken puts a token that has expired in the place of the pod's own.
func (p pod) expireToken(t *testing.T) {
	t.Helper()
	volume := fmt.Sprintf("/var/lib/kubelet/pods/%s/volumes/kubernetes.io~projected/%s", p.uid(t), p.token.name)
	file := volume + "/" + p.token.file
	expired := expire(t, inNode(t, "cat", file))
	if _, err := tryInNode([]byte(expired), "bash", "-c", putExpired, file, volume); err != nil {
		t.Fatal(err)
	}
}

// expire returns the token with an expiry in the past. Its signature holds no
// more, which nothing on the node verifies.
func expire(t *testing.T, token string) string {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatal("the pod's token is no JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	claims["exp"] = time.Now().Add(-time.Minute).Unix()
	if payload, err = json.Marshal(claims); err != nil {
		t.Fatal(err)
	}
	parts[1] = base64.RawURLEncoding.EncodeToString(payload)
	return strings.Join(parts, ".")
}
