package delivery

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// newGuarding returns a reconciler of three pods, whose links are known: only
// the one that passes may send everything.
func newGuarding(t *testing.T) (*Reconciler, *kernel, *node) {
	t.Helper()
	k, n := newKernel(), &node{}
	for id, p := range map[uint64]workload.Pod{
		1: {UID: "passes", Decision: pass}, 2: {UID: "denied", Decision: deny}, 3: {UID: "host", HostNetwork: true, Decision: deny},
	} {
		n.run(id, p)
	}
	n.cgroups = append(n.cgroups, workload.PodCgroup{UID: "stranger", CgroupID: 4, Path: "stranger"})
	r := newReconciler(t, k, n, func(o *Options) { o.GuardLinks = true })
	for uid, ifindex := range map[string]int{"passes": 11, "denied": 12, "host": 13, "stranger": 14} {
		r.guard.links[uid] = podLinks{ifindexes: []int{ifindex}}
	}
	r.reconcile(false)
	r.guard.look()
	return r, k, n
}

func wantGuarded(t *testing.T, k *kernel, want map[int]uint64) {
	t.Helper()
	if diff := cmp.Diff(want, k.guarded); diff != "" {
		t.Errorf("guarded links (-want +got):\n%s", diff)
	}
}

func TestGuardFollowsTheVerdicts(t *testing.T) {
	r, k, n := newGuarding(t)
	wantGuarded(t, k, map[int]uint64{12: 2, 14: 4})
	for i := range n.pods {
		if n.pods[i].UID == "denied" {
			n.pods[i].Decision = pass
		}
	}
	n.cgroups = n.cgroups[:3]
	r.reconcile(false)
	r.guard.look()
	wantGuarded(t, k, map[int]uint64{})
}

func TestGuardThatFailsIsToldAndTriedAgain(t *testing.T) {
	r, k, _ := newGuarding(t)
	k.behind = true
	clear(r.guard.guarded)
	r.guard.look()
	if got := r.Unguarded(); got["denied"] == nil || got["stranger"] == nil || len(got) != 2 {
		t.Errorf("unguarded: %v, want denied and stranger", got)
	}
	k.behind = false
	r.guard.look()
	if got := r.Unguarded(); len(got) != 0 {
		t.Errorf("unguarded: %v, want none", got)
	}
}

// A verdict does not wait for a link: nothing looks for one in a pass.
func TestPassLooksForNoLinks(t *testing.T) {
	r, k, _ := newGuarding(t)
	clear(r.guard.links)
	r.reconcile(true)
	wantGuarded(t, k, map[int]uint64{12: 2, 14: 4})
	r.guard.look()
	wantGuarded(t, k, map[int]uint64{}) // the pods have no namespaces here
}

func TestLinkThatWentIsLookedForAnew(t *testing.T) {
	r, k, _ := newGuarding(t)
	k.gone = 12
	clear(r.guard.guarded)
	if soon := r.guard.look(); soon == 0 {
		t.Error("it is not looked for again")
	}
	if _, known := r.guard.links["denied"]; known {
		t.Error("the link that went is kept")
	}
}

// What others did to a guard shows with the next thorough look.
func TestThoroughLookGuardsOnceMore(t *testing.T) {
	pod := startPod(t)
	k, n := newKernel(), &node{pids: map[string][]int{"one": {pod}}}
	n.run(1, workload.Pod{UID: "one", Decision: steer})
	r := newReconciler(t, k, n, func(o *Options) { o.GuardLinks = true })
	r.reconcile(true)
	const link = 7 // a namespace with no link in it has none to be found
	r.guard.links["one"] = podLinks{inode: r.listeners["one"].inode, ifindexes: []int{link}}
	for _, thorough := range []bool{false, true} {
		r.guard.look()
		delete(k.guarded, link)
		r.reconcile(thorough)
		r.guard.look()
		if _, ok := k.guarded[link]; ok != thorough {
			t.Errorf("thorough %t: guarded %t", thorough, ok)
		}
	}
}
