package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/test/load"
)

var rollouts = flag.Int("rollouts", 5, "how often the agent is replaced under load")

// Some 500 requests a second, half of them on connections of their own, come
// from clients that never try twice, while the DaemonSet replaces the agent
// again and again. All of them get their own token.
func TestRolloutsUnderLoad(t *testing.T) {
	needNode(t)
	var pods []pod
	for i := range 4 {
		p := pod{namespace: teamA, name: fmt.Sprintf("load-%d", i), account: "app-one", labelled: true, token: newVolume}
		p.args = []string{"load", "-workers=22", "-every=140ms", "-idle=1500ms", fmt.Sprintf("-keep=%t", i%2 == 0), clientOf(t, "app-one")}
		pods = append(pods, p)
	}
	start(t, pods...)
	for _, p := range pods {
		p.asks(t)
	}
	started := time.Now()
	for range *rollouts {
		kubectl(t, "-n", system, "rollout", "restart", "daemonset/sidestep-agent")
		rolledOut(t)
	}
	took := time.Since(started)
	time.Sleep(2 * time.Second) // tallies come each second
	var sum load.Tally
	for _, p := range pods {
		sum.Add(p.tally(t))
	}
	t.Logf("%d rollouts in %.0f s, %d requests: %d failed, %d reset, %d wrong; %d asked to leave",
		*rollouts, took.Seconds(), sum.Requests, sum.Failed, sum.Reset, sum.Wrong, sum.Closing)
	if sum.Bad() != 0 || sum.Closing == 0 {
		t.Errorf("want none of them, and some asked to leave: %q", sum.Notes)
	}
}

// asks waits until the pod's clients have asked.
func (p pod) asks(t *testing.T) {
	t.Helper()
	eventually(t, 30*time.Second, func() error {
		if p.tally(t).Requests == 0 {
			return fmt.Errorf("%s has not asked yet", p.name)
		}
		return nil
	})
}

// tally returns the results of the pod's requests so far.
func (p pod) tally(t *testing.T) (last load.Tally) {
	t.Helper()
	out := kubectl(t, "-n", p.namespace, "logs", p.name, "--tail=1")
	if out = strings.TrimSpace(out); out == "" {
		return last
	}
	if err := json.Unmarshal([]byte(out), &last); err != nil {
		t.Fatalf("%s: %v: %s", p.name, err, out)
	}
	return last
}

// clientOf returns the client id of an identity.
func clientOf(t *testing.T, name string) string {
	t.Helper()
	for _, i := range known.Identities {
		if i.Name == name {
			return i.ClientID
		}
	}
	t.Fatalf("there is no identity %s", name)
	return ""
}
