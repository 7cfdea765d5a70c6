package podcache

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func (c *cluster) unexplained(t *testing.T, want int) {
	t.Helper()
	if got := c.Unexplained(); len(got) != want {
		t.Errorf("unexplained: %v, want %d", got, want)
	}
	metric := strings.NewReader("# HELP sidestep_pods_unexplained Pods that have run here for 5 s and that the API server has not reported: " +
		"while there are some, the agent may be blind.\n# TYPE sidestep_pods_unexplained gauge\nsidestep_pods_unexplained " + string(rune('0'+want)) + "\n")
	if err := testutil.GatherAndCompare(c.metrics, metric, "sidestep_pods_unexplained"); err != nil {
		t.Error(err)
	}
}

// A watch that is connected and silent: a new pod is never reported, a label
// that was removed not seen, until something else says that the pod is there.
func TestAPodThatRunsAndIsNotKnownEndsBlindness(t *testing.T) {
	c := newCluster(t, config.Default(), newTestPod("shop", "cart", "u1", "cart", labeled), newTestAccount("shop", "cart", "sa1")).start(t)
	c.api.silence()
	c.api.put(newTestPod("shop", "cart", "u1", "cart"), newTestPod("shop", "new", "u2", "cart", labeled),
		newTestAccount("shop", "cart", "sa1", workload.ClientIDAnnotation, "c1"))
	c.Witness([]string{"u1", "u2"})
	c.unexplained(t, 0) // it may be on its way
	c.fake.Step(explained)
	c.unexplained(t, 1)
	c.Witness([]string{"u1", "u2"})
	eventually(t, "the new pod", func() bool { return c.verdict("u2") == workload.Steer })
	if got := c.verdict("u1"); got != workload.Pass {
		t.Errorf("the pod without its label: %v", got)
	}
	c.unexplained(t, 0)
	// Service accounts' watches are as old: they follow, over some time.
	eventually(t, "the account's new client", func() bool {
		c.fake.Step(time.Second)
		return c.workload("u2").ClientID == "c1"
	})
	c.Witness([]string{"u1", "u2"})
	c.unexplained(t, 0)
}

// Nothing tells of a label that was removed, if no pod comes.
func TestEverythingIsListedAgainFromTimeToTime(t *testing.T) {
	c := newCluster(t, config.Default(), newTestPod("shop", "cart", "u1", "cart", labeled), newTestAccount("shop", "cart", "sa1")).start(t)
	c.api.silence()
	c.api.put(newTestPod("shop", "cart", "u1", "cart"), newTestAccount("shop", "cart", "sa1", workload.ClientIDAnnotation, "c1"))
	lists := func() (n int) {
		for _, a := range c.api.Actions() {
			if a.GetVerb() == "list" && a.GetResource().Resource == "pods" {
				n++
			}
		}
		return n
	}
	before := lists()
	c.fake.Step(relistEvery - time.Second)
	if got := lists(); got != before || c.verdict("u1") != workload.Steer {
		t.Errorf("%d lists before their time", got-before)
	}
	c.fake.Step(relistEvery/2 + time.Second)
	eventually(t, "the label's end", func() bool { return c.verdict("u1") == workload.Pass })
	eventually(t, "the account's new client", func() bool {
		c.fake.Step(time.Second)
		return c.workload("u1").ClientID == "c1"
	})
	if got := lists() - before; got != 1 {
		t.Errorf("pods were listed %d times, want once", got)
	}
}

// A pod that no list explains, forced from the API while it runs, costs a few
// lists an hour, and hides no other.
func TestListsForPodsThatNothingExplainsAreRare(t *testing.T) {
	c := newCluster(t, config.Default())
	c.listed = true
	lists := func(d time.Duration, running ...string) (n int) {
		for range int(d / time.Second) {
			c.fake.Step(time.Second)
			c.Witness(running)
			select {
			case <-c.relist:
				n++
			default:
			}
		}
		return n
	}
	if n := lists(time.Hour, "ghost"); n < 8 || n > 12 {
		t.Errorf("%d lists in an hour", n)
	}
	if n := lists(explained+askPause+time.Second, "ghost", "new"); n < 1 || n > 2 {
		t.Errorf("%d lists for another", n)
	}
	if got := c.Unexplained(); !slices.Equal(got, []string{"ghost", "new"}) {
		t.Errorf("unexplained: %v", got)
	}
	c.Witness(nil)
	if got := c.Unexplained(); got != nil {
		t.Errorf("unexplained once they have ended: %v", got)
	}
}

func TestNothingIsListedAgainBeforeTheFirstList(t *testing.T) {
	c := newCluster(t, config.Default())
	for range 60 {
		c.fake.Step(time.Second)
		c.Witness([]string{"u1"})
	}
	if len(c.relist) > 0 || c.Unexplained() != nil {
		t.Errorf("a list is asked for; unexplained: %v", c.Unexplained())
	}
}

// What a reflector says after its successor has begun is old.
func TestTheLastReflectorIsNotHeard(t *testing.T) {
	c := newCluster(t, config.Default())
	round, end := context.WithCancel(t.Context())
	s := podStore{Cache: c.Cache, ctx: t.Context(), round: round, again: new(bool)}
	p := newTestPod("shop", "cart", "u1", "", labeled)
	check := func(what string, err error) {
		t.Helper()
		if err != nil || c.verdict("u1") != workload.Steer {
			t.Errorf("%s: %v, %v", what, err, c.verdict("u1"))
		}
	}
	check("added", s.Add(p))
	end()
	check("changed late", s.Add(newTestPod("shop", "cart", "u1", "")))
	check("deleted late", s.Delete(p))
	check("listed late", s.Replace(nil, ""))
}
