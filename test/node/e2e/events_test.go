package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"
)

// What Entra refuses is said in plain words, with the command that mends it:
// to the application, in an event on its pod, in the log and in the status.
func TestRefusalsAreDiagnosed(t *testing.T) {
	needNode(t)
	abroad := pod{namespace: teamB, name: "diagnosed", account: "abroad", labelled: true, token: newVolume}
	start(t, abroad)
	const (
		says = "AADSTS700016: there is no client "
		mend = "kubectl annotate serviceaccount --overwrite --namespace team-b abroad azure.workload.identity/tenant-id=\"$(az identity list "
	)
	for range 3 {
		got := abroad.get(t, tokenPath+url.QueryEscape(vaultURL))
		var body struct {
			Description string `json:"error_description"`
		}
		if err := json.Unmarshal([]byte(got.Body), &body); err != nil || got.Status != 400 ||
			!strings.HasPrefix(body.Description, says) || !strings.Contains(body.Description, "Mend: "+mend) {
			t.Errorf("answer %+v, want a 400 with the meaning and the command", got)
		}
	}
	var events string
	eventually(t, 10*time.Second, func() error {
		events = kubectl(t, "-n", teamB, "get", "events", "--field-selector", "involvedObject.name="+abroad.name+",reason=TokenRefused",
			"-o", "jsonpath={range .items[*]}{.type} {.reason} {.message}{\"\\n\"}{end}")
		if !strings.Contains(events, mend) {
			return fmt.Errorf("the pod's events are %q", events)
		}
		return nil
	})
	if n := strings.Count(events, "\n"); n != 1 || !strings.HasPrefix(events, "Warning TokenRefused "+says) {
		t.Errorf("%d events for one trouble: %s", n, events)
	}
	t.Log(events)
	status := kubectl(t, "-n", system, "exec", "daemonset/sidestep-agent", "--", "/agent", "status")
	if _, below, ok := strings.Cut(status, "to fix team-b/abroad:\n"); !ok || !strings.Contains(below, mend) {
		t.Errorf("the status has no command for team-b/abroad:\n%s", status)
	}
	told := 0
	for line := range strings.Lines(kubectl(t, "-n", system, "logs", "daemonset/sidestep-agent")) {
		if strings.Contains(line, `"pod":"`+abroad.name+`"`) && strings.Contains(line, `"mend":"kubectl annotate`) {
			told++
		}
	}
	if told != 1 {
		t.Errorf("the log tells of it %d times, want once", told)
	}
}
