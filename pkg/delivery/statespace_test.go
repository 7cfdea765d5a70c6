package delivery

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// The state space of one pod's life: whatever may happen to its object, its
// cgroup and the agent, in every order, until no new state is found. After
// each step the kernel must have what the last look should have left.

// step is one thing that happens.
type step string

const (
	objectPasses  step = "object: pass"
	objectDenied  step = "object: deny"
	objectSteered step = "object: steer"
	objectMixed   step = "object: one container passes"
	objectDeleted step = "object deleted"
	cgroupMade    step = "cgroup made"
	cgroupEnded   step = "cgroup ended"
	looked        step = "look"
	restarted     step = "agent restarted, look"
	crashed       step = "agent crashed before its first look"
	noRoom        step = "look, map full"
	killedBefore  step = "agent killed in a look before its first write"
	killedAfter   step = "agent killed in a look after its first write"
)

var steps = []step{
	objectPasses, objectDenied, objectSteered, objectMixed, objectDeleted, cgroupMade, cgroupEnded, looked, restarted,
	crashed, noRoom, killedBefore, killedAfter,
}

// mixed has two containers, of which one passes; a third is not known.
var mixed = map[string]workload.Decision{"app": steer, "skipped": pass}

// defects are planted, to see that the search finds them.
type defects struct {
	forgets bool // what an earlier agent has left is not seen
	keeps   bool // the removal of a verdict is lost
	frees   bool // what holds a pod without an object is removed instead
}

// lived is the kernel of a life. Its map may have no room for what is new, what
// is there can be changed all the same; and the agent may be killed between two
// writes.
type lived struct {
	*kernel
	*life
}

func (k lived) SetVerdict(id uint64, e workload.Entry) error {
	if !k.write() {
		return errors.New("the agent was killed")
	}
	if _, ok := k.verdicts[id]; !ok && k.full {
		return errors.New("map is full")
	}
	if e.Verdict == workload.Pass && !k.mayPass(id) {
		k.wrong = fmt.Errorf("cgroup %d is let pass, which its pod may not", id)
	}
	if k.defects.frees && e == orphanEntry() {
		delete(k.verdicts, id)
		return nil
	}
	k.verdicts[id], k.decided[id] = e, true
	return nil
}

func (k lived) DeleteVerdict(id uint64) error {
	if !k.write() {
		return errors.New("the agent was killed")
	}
	if k.defects.keeps {
		return nil
	}
	return k.kernel.DeleteVerdict(id)
}

func (k lived) Decided() ([]uint64, error) {
	if k.defects.forgets {
		return nil, nil
	}
	return k.kernel.Decided()
}

// life is one pod in some state.
type life struct {
	kernel     *kernel
	node       *node
	reconciler *Reconciler
	host       bool
	nextID     uint64
	known      *workload.Pod   // as the last look saw it; nil: no object
	stale      bool            // something happened since
	failed     bool            // the last look lacked room
	left       int             // writes until the agent is killed; negative: it is not
	decided    map[uint64]bool // cgroups that have had a verdict
	wrong      error           // what the agent wrote and may not write
	defects    defects
}

func newLife(t *testing.T, host bool, d defects) *life {
	t.Helper()
	l := &life{
		kernel: newKernel(), node: &node{}, host: host, nextID: 10, left: -1, decided: make(map[uint64]bool), defects: d,
	}
	l.agent(t)
	return l
}

// agent starts one that goes on from what the kernel has.
func (l *life) agent(t *testing.T) {
	t.Helper()
	o := func(o *Options) { o.NodeOnly, o.Kernel = true, lived{l.kernel, l} }
	l.reconciler = newReconciler(t, l.kernel, l.node, o)
	if err := l.reconciler.adopt(); err != nil {
		t.Fatal(err)
	}
}

func (l *life) do(t *testing.T, s step) {
	t.Helper()
	switch s {
	case objectPasses:
		l.object(workload.Pod{Decision: pass})
	case objectDenied:
		l.object(workload.Pod{Decision: deny})
	case objectSteered:
		l.object(workload.Pod{Decision: steer})
	case objectMixed:
		l.object(workload.Pod{Containers: mixed})
	case objectDeleted:
		l.node.pods, l.stale = nil, true
	case cgroupMade:
		l.cgroup()
	case cgroupEnded:
		l.node.cgroups, l.stale = nil, true
	case looked:
		l.look(false)
	case noRoom:
		l.look(true)
	case killedBefore, killedAfter:
		l.left = map[step]int{killedBefore: 0, killedAfter: 1}[s]
		l.look(false)
		l.left, l.stale = -1, true
		l.reconciler.Close()
		l.agent(t)
	case restarted, crashed:
		l.reconciler.Close()
		l.agent(t)
		if s == restarted {
			l.look(false)
		}
	}
}

// write counts a write; false if the agent was killed before it.
func (l *life) write() bool {
	if l.left == 0 {
		return false
	}
	l.left--
	return true
}

// mayPass reports whether the object, as it is now, lets the cgroup pass.
func (l *life) mayPass(id uint64) bool {
	return len(l.node.pods) > 0 && l.wanted(&l.node.pods[0])[id] == workload.Pass
}

func (l *life) object(p workload.Pod) {
	p.UID, p.HostNetwork = "pod", l.host
	l.node.pods, l.stale = []workload.Pod{p}, true
}

// cgroup makes a new one, with a new id: a pod has one at a time.
func (l *life) cgroup() {
	id := l.nextID
	l.nextID += 10
	l.node.cgroups = []workload.PodCgroup{{
		UID: "pod", CgroupID: id, Path: "pod",
		Containers: []workload.ContainerCgroup{
			{ContainerID: "app", CgroupID: id + 1}, {ContainerID: "skipped", CgroupID: id + 2},
			{ContainerID: "unknown", CgroupID: id + 3},
		},
	}}
	l.stale = true
}

func (l *life) look(full bool) {
	l.kernel.full = full
	l.reconciler.reconcile(false)
	l.kernel.full = false
	l.failed, l.stale, l.known = full, false, nil
	if len(l.node.pods) > 0 {
		p := l.node.pods[0]
		l.known = &p
	}
}

// wanted returns the verdicts that a look is to leave for the pod, by cgroup.
// One of a pod without an object is held, by an entry or by the lack of one.
func (l *life) wanted(p *workload.Pod) map[uint64]workload.Verdict {
	all := make(map[uint64]workload.Verdict)
	for _, cg := range l.node.cgroups {
		if p == nil {
			continue
		}
		all[cg.CgroupID] = p.Decision.Verdict
		for _, c := range cg.Containers {
			if d, ok := p.Containers[c.ContainerID]; ok {
				all[c.CgroupID] = d.Verdict
			}
		}
	}
	return all
}

// check returns what is wrong with the kernel's verdicts.
func (l *life) check() error {
	if l.wrong != nil {
		return l.wrong
	}
	for _, cg := range l.node.cgroups {
		if _, ok := l.kernel.verdicts[cg.CgroupID]; !ok && l.decided[cg.CgroupID] {
			return fmt.Errorf("cgroup %d lives, had a verdict and has none: it is as the settings say of unknown pods", cg.CgroupID)
		}
	}
	if l.stale {
		return nil // the next look is to see to it
	}
	want, living := l.wanted(l.known), make(map[uint64]bool)
	for _, cg := range l.node.cgroups {
		living[cg.CgroupID] = true
		for _, c := range cg.Containers {
			living[c.CgroupID] = true
		}
	}
	for id, e := range l.kernel.verdicts {
		if !living[id] {
			return fmt.Errorf("a cgroup that ended has the verdict %s", e.Verdict)
		}
		if e.Verdict == workload.Pass && want[id] != workload.Pass {
			return fmt.Errorf("cgroup %d passes, want %s", id, want[id])
		}
		if l.known != nil && e.Verdict != want[id] {
			return fmt.Errorf("cgroup %d: %s, want %s", id, e.Verdict, want[id])
		}
	}
	for id, verdict := range want {
		if e, ok := l.kernel.verdicts[id]; !l.failed && (!ok || e.Verdict != verdict) {
			return fmt.Errorf("cgroup %d lives and has %s (%t), want %s", id, e.Verdict, ok, verdict)
		}
	}
	return nil
}

// key is the state. Ids of cgroups count from that of the pod's current one.
func (l *life) key() string {
	var b strings.Builder
	base := l.nextID - 10
	fmt.Fprintf(&b, "%v %d %+v %t %t|", l.node.pods, len(l.node.cgroups), l.known, l.stale, l.failed)
	for _, id := range slices.Sorted(maps.Keys(l.kernel.verdicts)) {
		fmt.Fprintf(&b, "%d:%+v ", int64(id-base), l.kernel.verdicts[id])
	}
	for _, cg := range l.node.cgroups {
		fmt.Fprintf(&b, "%t|", l.decided[cg.CgroupID])
	}
	for _, id := range slices.Sorted(maps.Keys(l.reconciler.applied)) {
		fmt.Fprintf(&b, "%d:%+v ", int64(id-base), l.reconciler.applied[id])
	}
	return b.String()
}

// replay returns a life in which the steps happened, all but the last of which
// are known to go well.
func replay(t *testing.T, host bool, d defects, path []step) *life {
	t.Helper()
	l := newLife(t, host, d)
	for _, s := range path {
		l.do(t, s)
	}
	return l
}

// deepest is of how many steps the longest path is.
const deepest = 6

// search visits every state, and returns how many there are, and the shortest
// path to one that is wrong.
func search(t *testing.T, host bool, d defects) (states int, path []step, err error) {
	t.Helper()
	seen := make(map[string]bool)
	for frontier := [][]step{nil}; len(frontier) > 0; {
		var next [][]step
		for _, path := range frontier {
			l := replay(t, host, d, path)
			err, key := l.check(), l.key()
			l.reconciler.Close()
			if err != nil {
				return len(seen), path, err
			}
			if seen[key] || len(path) == deepest {
				continue
			}
			seen[key] = true
			for _, s := range steps {
				next = append(next, append(slices.Clone(path), s))
			}
		}
		frontier = next
	}
	return len(seen), nil, nil
}

func TestVerdictsInEveryState(t *testing.T) {
	for _, host := range []bool{false, true} {
		states, path, err := search(t, host, defects{})
		if err != nil {
			t.Fatalf("host network %t, after %q: %v", host, path, err)
		}
		t.Logf("host network %t: %d states in %d steps", host, states, deepest)
	}
}

// The search must find what is wrong.
func TestSearchFindsPlantedDefects(t *testing.T) {
	for name, tc := range map[string]struct {
		defects defects
		want    string
	}{
		"an agent does not see what an earlier one left": {defects{forgets: true}, "passes, want unknown"},
		"a verdict outlives its cgroup":                  {defects{keeps: true}, "has the verdict"},
		"a pod without an object is unknown":             {defects{frees: true}, "has none"},
	} {
		t.Run(name, func(t *testing.T) {
			states, path, err := search(t, true, tc.defects)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("in %d states %v, want: %s", states, err, tc.want)
			}
			t.Logf("found after %d states: %q: %v", states, path, err)
		})
	}
}
