package delivery

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// line keeps what the links may send, as the second line would.
type line struct {
	links []workload.PodLink
	fails bool
}

func (l *line) SetLinks(links []workload.PodLink) error {
	if l.fails {
		return errors.New("no memory")
	}
	l.links = links
	return nil
}

// newLined returns a reconciler of a pod that passes and one that is denied,
// whose links are known unless their names are left out.
func newLined(t *testing.T, links map[string]int) (*Reconciler, *kernel, *node, *line) {
	t.Helper()
	k, n, l := newKernel(), &node{}, &line{}
	n.run(1, workload.Pod{UID: "passes", Decision: pass})
	n.run(2, workload.Pod{UID: "denied", Decision: deny})
	n.cgroups = append(n.cgroups, workload.PodCgroup{UID: "stranger", CgroupID: 4, Path: "stranger"})
	r := newReconciler(t, k, n, func(o *Options) { o.GuardLinks, o.Line = true, l })
	for uid, ifindex := range links {
		r.guard.links[uid] = podLinks{ifindexes: []int{ifindex}}
	}
	return r, k, n, l
}

func wantVerdict(t *testing.T, k *kernel, id uint64, want workload.Verdict) {
	t.Helper()
	if got := k.verdicts[id].Verdict; got != want {
		t.Errorf("cgroup %d: %s, want %s", id, got, want)
	}
}

// A pod that passes is held until the second line lets it through.
func TestLineBeforeTheVerdict(t *testing.T) {
	r, k, _, l := newLined(t, map[string]int{"passes": 11, "denied": 12, "stranger": 13})
	r.reconcile(false)
	wantVerdict(t, k, 1, workload.Unknown)
	wantVerdict(t, k, 2, workload.Deny)
	r.guard.look()
	if diff := cmp.Diff([]workload.PodLink{{Ifindex: 11, IMDS: true, WireServer: true}, {Ifindex: 12, WireServer: true}}, l.links); diff != "" {
		t.Errorf("the line's links (-want +got):\n%s", diff)
	}
	select {
	case <-r.guard.news:
	default:
		t.Error("it is not reported that the line lets more through")
	}
	r.reconcile(false)
	wantVerdict(t, k, 1, workload.Pass)
	wantGuarded(t, k, map[int]uint64{12: 2, 13: 4}) // the one that passes pays nothing
}

func TestLineBeforeAPodIsLetPass(t *testing.T) {
	r, k, n, l := newLined(t, map[string]int{"passes": 11, "denied": 12})
	r.reconcile(false)
	r.guard.look()
	r.reconcile(false)
	n.pods[1].Decision = pass
	r.reconcile(false)
	wantVerdict(t, k, 2, workload.Deny)
	l.fails = true
	if soon := r.guard.look(); soon == 0 {
		t.Error("the line is not tried again")
	}
	r.reconcile(false)
	wantVerdict(t, k, 2, workload.Deny)
	l.fails = false
	r.guard.look()
	r.reconcile(false)
	wantVerdict(t, k, 2, workload.Pass)
	n.pods[1].Decision = deny // at once
	r.reconcile(false)
	wantVerdict(t, k, 2, workload.Deny)
}

// What an earlier agent let pass is not held while its links are looked for.
func TestLineLeavesAdoptedVerdicts(t *testing.T) {
	r, k, _, _ := newLined(t, nil)
	k.verdicts[1] = workload.Entry{Verdict: workload.Pass}
	if err := r.adopt(); err != nil {
		t.Fatal(err)
	}
	r.reconcile(true)
	r.guard.look() // the pods have no namespaces here
	r.reconcile(false)
	wantVerdict(t, k, 1, workload.Pass)
}

// A verdict does not wait for a link that routing never sees.
func TestLineIsNotForPodsWithoutSuchLinks(t *testing.T) {
	r, k, n, _ := newLined(t, nil)
	r.reconcile(false)
	for _, cg := range n.cgroups {
		r.guard.waiting[cg.UID] = &wait{containers: cg.Containers, missing: errNoLink}
	}
	r.guard.waiting["denied"].missing = errNoLinkYet
	r.guard.look()
	n.pods[1].Decision = pass
	r.reconcile(false)
	wantVerdict(t, k, 1, workload.Pass)
	wantVerdict(t, k, 2, workload.Deny)
}

// The connection on which a held pod is passed on waits for the line, too.
func TestDialWaitsForTheLine(t *testing.T) {
	r, _, _, _ := newLined(t, map[string]int{"passes": 11})
	caller := workload.Caller{PodUID: "passes"}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Dial(ended, caller, "192.0.2.1:80"); !errors.Is(err, context.Canceled) {
		t.Errorf("before the line lets the pod send: %v, want %v", err, context.Canceled)
	}
	r.reconcile(false)
	r.guard.look()
	if _, err := r.Dial(ended, caller, "192.0.2.1:80"); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("once it does: %v, want that its namespace is looked for", err)
	}
}
