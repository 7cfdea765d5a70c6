package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/test/load"
	"github.com/sidestep-agent/sidestep/test/standins/entra"
	standin "github.com/sidestep-agent/sidestep/test/standins/imds"
)

// bystanders are pods that ask all the time and never twice, steered ones and
// one that passes. No fault of the node's may touch them.
type bystanders struct {
	steered   []pod
	passing   pod
	logs      []string // on the node, of the steered pods and the passing one
	addresses map[string]bool
}

// startBystanders starts them and waits until they have asked.
func startBystanders(t *testing.T) *bystanders {
	t.Helper()
	asking := func(p pod, client string, flags ...string) pod {
		p.args = append(append([]string{"load"}, flags...), client)
		return p
	}
	// Of edge, since other tests have Entra asked for team-a's and team-b's.
	one := pod{namespace: edge, name: "steady-one", account: "app-one", labelled: true, token: newVolume}
	two := pod{namespace: edge, name: "steady-two", account: "app-two", labelled: true, token: oldVolume}
	plain := pod{namespace: teamC, name: "steady", account: "default"}
	b := &bystanders{
		steered: []pod{
			asking(one, clientOf(t, "app-one"), "-workers=8", "-every=150ms", "-idle=1500ms", "-keep=false"),
			asking(two, clientOf(t, "app-two"), "-workers=8", "-every=150ms", "-idle=1500ms", "-keep=true"),
		},
		passing:   asking(plain, known.NodeIdentity.ClientID, "-workers=2", "-every=400ms", "-idle=400ms"),
		addresses: map[string]bool{},
	}
	all := slices.Concat(b.steered, []pod{b.passing})
	start(t, all...)
	for _, p := range all {
		b.logs = append(b.logs, fmt.Sprintf("/var/log/pods/%s_%s_%s/app/0.log", p.namespace, p.name, p.uid(t)))
		p.asks(t)
	}
	for _, p := range b.steered {
		b.addresses[kubectl(t, "-n", p.namespace, "get", "pod", p.name, "-o", "jsonpath={.status.podIP}")] = true
	}
	return b
}

// tallies returns the results of each one's requests so far, by the logs on the
// node: the API server may be down.
func (b *bystanders) tallies(t *testing.T) []load.Tally {
	t.Helper()
	var all []load.Tally
	for line := range strings.Lines(inNode(t, append([]string{"tail", "-qn1"}, b.logs...)...)) {
		fields := strings.SplitN(line, " ", 4) // time, stream, whole or part, what was written
		var tally load.Tally
		if err := json.Unmarshal([]byte(fields[len(fields)-1]), &tally); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		all = append(all, tally)
	}
	if len(all) != len(b.logs) {
		t.Fatalf("%d of %d logs", len(all), len(b.logs))
	}
	return all
}

// settled returns the tallies when all that was asked until now is in them.
func (b *bystanders) settled(t *testing.T) (now []load.Tally) {
	t.Helper()
	before := b.tallies(t)
	eventually(t, 40*time.Second, func() error {
		now = b.tallies(t)
		for i := range now {
			if now[i].Requests == before[i].Requests {
				return fmt.Errorf("%s has not asked since", b.logs[i])
			}
		}
		return nil
	})
	return now
}

// fault is a row of the table of faults.
type fault struct {
	name, expected string
	happens        func(*testing.T, witness) string // returns what was seen besides
	noticed        bool                             // steered pods are refused meanwhile
}

// during runs a fault as a subtest, in which the bystanders notice nothing.
func (b *bystanders) during(t *testing.T, f fault, w witness) {
	t.Helper()
	t.Run(f.name, func(t *testing.T) {
		issued, leaked := sinceNow[entra.Entry](t, "entra"), sinceNow[standin.Entry](t, "imds")
		before := b.tallies(t)
		seen := f.happens(t, w)
		var steered, passing load.Tally
		for i, now := range b.settled(t) {
			sum := &steered
			if i == len(b.steered) {
				sum = &passing
			}
			sum.Add(less(now, before[i]))
		}
		t.Logf("fault: %s | %s | %s; steered pods: %s; a pod that passes: %s", f.name, f.expected, seen, summary(steered), summary(passing))
		if passing.Bad() != 0 || steered.Wrong != 0 || (steered.Bad() != 0) != f.noticed {
			t.Errorf("want nothing but right answers, unless there is no agent: %q %q", steered.Notes, passing.Notes)
		}
		checkIssued(t, issued())
		checkLeaked(t, leaked(), b.addresses)
	})
}

// less returns what came after before. The notes stay.
func less(now, before load.Tally) load.Tally {
	now.Requests -= before.Requests
	now.Failed -= before.Failed
	now.Reset -= before.Reset
	now.Wrong -= before.Wrong
	return now
}

func summary(t load.Tally) string {
	return fmt.Sprintf("%d requests, %d failed, %d reset, %d wrong", t.Requests, t.Failed, t.Reset, t.Wrong)
}
