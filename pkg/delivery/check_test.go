package delivery

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func cgroupsAt(paths ...string) (all []workload.PodCgroup) {
	for _, path := range paths {
		all = append(all, workload.PodCgroup{UID: path, Path: path})
	}
	return all
}

func TestEachPodHasItsTurn(t *testing.T) {
	for _, pods := range []int{0, 1, 7, 60, 61, 250} {
		var all []workload.PodCgroup
		for i := range pods {
			all = append(all, cgroupsAt(fmt.Sprintf("pod-%03d", i))...)
		}
		const rounds = 60
		var turns rota
		seen, most := map[string]bool{}, 0
		for round := range rounds {
			part := turns.next(all, rounds)
			most = max(most, len(part))
			for _, cg := range part {
				seen[cg.UID] = true
			}
			if round == rounds/2 && pods > 1 { // the one whose turn was last ends
				all = append(all[:0:0], all...)
				for i := range all {
					if all[i].Path == turns.last {
						all = append(all[:i], all[i+1:]...)
						break
					}
				}
			}
		}
		if len(seen) != pods || most > (pods+rounds-1)/rounds {
			t.Errorf("of %d pods %d had their turn, at most %d at a time", pods, len(seen), most)
		}
	}
}

// A check looks at the pods whose turn it is and at those that something is
// missing of, also when nothing else is tried any more.
func TestCheckLooksAtAPart(t *testing.T) {
	r, n := newWaiting(t)
	delete(r.waiting, "starting")
	r.waiting["starting too"].next = time.Time{}
	r.audit.last = "passes" // and so it is the turn of "starting"
	if r.check(); !cmp.Equal(n.looked, map[string]int{"starting": 1, "starting too": 1}) {
		t.Errorf("looked at %v, want the two that have no sandbox", n.looked)
	}
	clear(n.looked)
	clear(r.waiting)
	if r.check(); len(n.looked) != 1 {
		t.Errorf("looked at %v, want the one whose turn it is", n.looked)
	}
}

// What could not be written, or removed, is tried again.
func TestCheckTriesAgain(t *testing.T) {
	k, n := newKernel(), &node{}
	n.run(1, workload.Pod{UID: "agent", Decision: deny})
	n.run(2, workload.Pod{UID: "passes", Decision: pass})
	n.cgroups = append(n.cgroups, workload.PodCgroup{UID: "orphan", CgroupID: 3, Path: "orphan"})
	k.verdicts[3] = workload.Entry{Verdict: workload.Pass}
	r := newReconciler(t, k, n, func(o *Options) { o.Self = 1 })
	if err := r.adopt(); err != nil {
		t.Fatal(err)
	}
	k.full = true
	r.reconcile(true)
	k.full = false
	r.applied[9], k.verdicts[9] = nil, workload.Entry{Verdict: workload.Pass} // as if its removal had failed
	r.check()
	wantVerdicts(t, k, map[uint64]workload.Entry{1: OwnEntry(), 2: {Verdict: workload.Pass}, 3: orphanEntry()})
	if len(r.last.lacking) != 0 {
		t.Errorf("still lacking: %v", r.last.lacking)
	}
}

// A check looks at all guards, and at no links but those of the pods whose turn
// it is.
func TestCheckLooksAtGuards(t *testing.T) {
	p := newPairs(t)
	p.guard.look() // nothing is asked for
	looks := p.looks
	delete(p.kernel.guarded, 7)
	p.guard.check(nil, true, true)
	p.guard.look()
	wantGuarded(t, p.kernel, map[int]uint64{7: 1})
	if p.looks != looks {
		t.Error("its links were looked at though it was not its turn")
	}
	p.links.ifindexes = []int{7, 8}
	p.guard.check(map[string]bool{"one": true}, true, true)
	p.guard.look()
	wantGuarded(t, p.kernel, map[int]uint64{7: 1, 8: 1})
}

// A link that a pod does not have is waited for by events alone; a pod that
// could not be looked at is looked at with each check.
func TestCheckRetriesLooksThatFailed(t *testing.T) {
	p := newPairs(t)
	for _, tc := range []struct {
		missing error
		again   bool
	}{{errNoLink, false}, {errNoLinkYet, false}, {errNoSandbox, true}, {context.DeadlineExceeded, true}} {
		p.err = tc.missing
		p.guard.check(map[string]bool{"one": true}, false, false)
		p.guard.look()
		p.guard.waiting["one"].next = time.Time{} // it has lasted too long
		looks := p.looks
		p.guard.check(nil, true, true)
		p.guard.look()
		if again := p.looks > looks; again != tc.again {
			t.Errorf("%v: looked at again: %t, want %t", tc.missing, again, tc.again)
		}
	}
}

// When a sandbox ends, that pod's listener and links are looked at again, at
// once and without a check.
func TestEndOfASandboxHasItsPodLookedAt(t *testing.T) {
	first, second := startPod(t), startPod(t)
	k, n := newKernel(), &node{pids: map[string][]int{"one": {first, second}}, looked: map[string]int{}}
	n.run(1, workload.Pod{UID: "one", Decision: steer})
	n.run(2, workload.Pod{UID: "other", Decision: steer})
	r := newReconciler(t, k, n, func(o *Options) { o.GuardLinks = true })
	links := make(map[uint64]int)
	r.guard.linksOf = func(ns, _ *namespace) (podLinks, error) {
		links[ns.inode]++
		return podLinks{inode: ns.inode, ifindexes: []int{7}}, nil
	}
	r.reconcile(true)
	r.guard.look()
	before := r.listeners["one"].inode
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-r.sandboxes.news
	clear(n.looked)
	r.lookAtLost()
	if n.looked["other"] != 0 {
		t.Error("another pod was looked at")
	}
	now := r.listeners["one"]
	if now == nil || now.inode == before {
		t.Fatalf("listener %+v, want one in the namespace that the pod is in now", now)
	}
	if k.verdicts[1].NetnsCookie != now.netnsCookie || k.verdicts[1].Port != now.port() {
		t.Errorf("the verdict is %+v, want it to name the new listener", k.verdicts[1])
	}
	r.guard.look()
	if links[now.inode] != 1 {
		t.Error("its links were not looked for in the namespace that the pod is in now")
	}
	if err := syscall.Kill(second, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-r.sandboxes.news
	r.lookAtLost()
	if len(r.Listeners()) != 0 || k.verdicts[1].Verdict != workload.Unknown {
		t.Errorf("%v and %+v after the last sandbox ended, want no listener and a pod that is held", r.Listeners(), k.verdicts[1])
	}
}
