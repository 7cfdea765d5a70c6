package delivery

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func newWaiting(t *testing.T) (*Reconciler, *node) {
	t.Helper()
	n := &node{looked: map[string]int{}}
	n.run(1, workload.Pod{UID: "starting", Decision: steer})
	n.run(2, workload.Pod{UID: "starting too", Decision: steer})
	n.run(3, workload.Pod{UID: "passes", Decision: pass})
	r := newReconciler(t, newKernel(), n, nil)
	r.reconcile(true)
	clear(n.looked)
	return r, n
}

// Between events only those pods are looked at whose time has come.
func TestLookAgain(t *testing.T) {
	r, n := newWaiting(t)
	for _, w := range r.waiting {
		w.next = time.Now().Add(time.Hour)
	}
	if soon := r.lookAgain(); soon < time.Minute || len(n.looked) != 0 {
		t.Errorf("looked %v, again in %s; want not yet", n.looked, soon)
	}
	r.waiting["starting"].next = time.Now()
	soon := r.lookAgain()
	if diff := cmp.Diff(map[string]int{"starting": 1}, n.looked); diff != "" {
		t.Errorf("looked (-want +got):\n%s", diff)
	}
	if soon <= 0 || soon > shortestWait {
		t.Errorf("again in %s, want at most %s", soon, shortestWait)
	}
}

func TestPausesGrow(t *testing.T) {
	for _, test := range []struct{ waited, pause time.Duration }{
		{0, shortestWait}, {time.Second, time.Second / 16}, {9 * time.Second, longestWait},
	} {
		r, _ := newWaiting(t)
		w := r.waiting["starting"]
		w.since = w.since.Add(-test.waited)
		before := time.Now()
		r.reconcile(false)
		took := time.Since(before) // and a test takes some time itself
		if pause := w.next.Sub(before); pause < test.pause || pause > test.pause+2*took+time.Second {
			t.Errorf("after %s: %s, want %s", test.waited, pause, test.pause)
		}
	}
}

// What is missing for long is left to the regular looks, until a container
// comes.
func TestWaitEnds(t *testing.T) {
	r, n := newWaiting(t)
	for _, w := range r.waiting {
		w.since = w.since.Add(-waitLimit)
	}
	if soon := r.reconcile(false); soon != 0 {
		t.Errorf("again in %s, want not", soon)
	}
	n.cgroups[0].Containers = []workload.ContainerCgroup{{ContainerID: "sandbox", CgroupID: 4}}
	if soon := r.reconcile(false); soon <= 0 || soon > shortestWait {
		t.Errorf("with a container: again in %s, want at most %s", soon, shortestWait)
	}
}

func TestNobodyWaitsForPodsThatAreNotKnown(t *testing.T) {
	r, n := newWaiting(t)
	n.pods = n.pods[2:]
	if soon := r.reconcile(false); soon != 0 || len(r.waiting) != 0 {
		t.Errorf("again in %s, waiting for %v", soon, r.waiting)
	}
}
