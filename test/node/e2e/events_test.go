package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"
)

// What Entra refuses is said in plain words, with the command that fixes it:
// to the application, in an event on its pod, in the log and in the status. Of
// a pod as new as this one it may pass by itself, which is said at once; it is
// final two minutes after its start.
func TestRefusalsAreDiagnosed(t *testing.T) {
	needNode(t)
	t.Parallel() // it is held, and waits for two minutes
	abroad := pod{namespace: teamB, name: "diagnosed", account: "abroad", labelled: true, token: newVolume}
	start(t, abroad)
	const (
		says = "AADSTS700016: there is no client "
		fix  = "kubectl annotate serviceaccount --overwrite --namespace team-b abroad azure.workload.identity/tenant-id=\"$(az identity list "
	)
	ask := func() (status int, description string) {
		got, err := abroad.tryGet(holdTime, tokenPath+url.QueryEscape(vaultURL))
		if err != nil {
			t.Fatal(err)
		}
		var body struct {
			Description string `json:"error_description"`
		}
		if err := json.Unmarshal([]byte(got.Body), &body); err != nil {
			t.Fatalf("answer %+v: %v", got, err)
		}
		return got.Status, body.Description
	}
	if status, description := ask(); status != 429 {
		t.Errorf("a new pod got %d, %s; want it held, then 429", status, description)
	}
	early := kubectl(t, "-n", teamB, "get", "events", "--field-selector", "involvedObject.name="+abroad.name+",reason=TokenNotAcceptedYet",
		"-o", "jsonpath={range .items[*]}{.message}{\"\\n\"}{end}")
	if !strings.HasPrefix(early, says) || !strings.Contains(early, "Not accepted yet, retried until ") || !strings.Contains(early, "; if it stays: "+fix) {
		t.Errorf("the first refusal's event is %q", early)
	}
	eventually(t, 4*time.Minute, func() error {
		status, description := ask()
		if status != 400 || !strings.HasPrefix(description, says) || !strings.Contains(description, "Fix: "+fix) {
			return fmt.Errorf("answer %d, %s; want a 400 with the meaning and the command", status, description)
		}
		return nil
	})
	var events string
	eventually(t, 10*time.Second, func() error {
		events = kubectl(t, "-n", teamB, "get", "events", "--field-selector", "involvedObject.name="+abroad.name+",reason=TokenRefused",
			"-o", "jsonpath={range .items[*]}{.type} {.reason} {.message}{\"\\n\"}{end}")
		if !strings.Contains(events, fix) {
			return fmt.Errorf("the pod's events are %q", events)
		}
		return nil
	})
	if n := strings.Count(events, "\n"); n != 1 || !strings.HasPrefix(events, "Warning TokenRefused "+says) {
		t.Errorf("%d events for one trouble: %s", n, events)
	}
	t.Log(events)
	status := kubectl(t, "-n", system, "exec", "daemonset/sidestep-agent", "--", "/agent", "status")
	if _, below, ok := strings.Cut(status, "to fix team-b/abroad:\n"); !ok || !strings.Contains(below, fix) {
		t.Errorf("the status has no command for team-b/abroad:\n%s", status)
	}
	logged := 0
	for line := range strings.Lines(kubectl(t, "-n", system, "logs", "daemonset/sidestep-agent")) {
		if strings.Contains(line, `"pod":"`+abroad.name+`"`) && strings.Contains(line, `"fix":"kubectl annotate`) {
			logged++
		}
	}
	if logged < 1 || logged > 3 { // as not final, and as final
		t.Errorf("the log tells of it %d times", logged)
	}
}
