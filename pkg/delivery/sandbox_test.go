package delivery

import (
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// table is a process table whose reads are counted.
type table struct {
	starts map[int]uint64 // by process
	inodes map[int]uint64
	read   struct{ starts, namespaces int }
}

func (p *table) startTime(pid int) (uint64, error) {
	p.read.starts++
	start, ok := p.starts[pid]
	if !ok {
		return 0, fs.ErrNotExist
	}
	return start, nil
}

func (p *table) namespace(pid int) (*namespace, error) {
	p.read.namespaces++
	inode, ok := p.inodes[pid]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return &namespace{inode: inode}, nil
}

const nodeNetns, podNetns = 1, 2

// newCrowd returns a finder on whose node one pod has a sandbox, with process
// 10, and many processes besides.
func newCrowd() (*sandboxFinder, *table, *node) {
	p := &table{starts: map[int]uint64{10: 100}, inodes: map[int]uint64{10: podNetns}}
	n := &node{pids: map[string][]int{"crowd": {10}}, looked: map[string]int{}}
	for pid := 11; pid < 5000; pid++ {
		p.starts[pid], p.inodes[pid] = uint64(pid)*10, podNetns+1 // of its own making
		n.pids["crowd"] = append(n.pids["crowd"], pid)
	}
	return &sandboxFinder{proc: p, cgroups: n, nodeInode: nodeNetns, known: map[string]process{}}, p, n
}

// However many processes a pod has, to look whether its sandbox is still there
// costs one read.
func TestKnownSandboxIsCheckedWithOneRead(t *testing.T) {
	f, p, n := newCrowd()
	if inode, err := f.inode("crowd"); err != nil || inode != podNetns {
		t.Fatalf("inode = %d, %v; want %d", inode, err, podNetns)
	}
	*p = table{starts: p.starts, inodes: p.inodes}
	clear(n.looked)
	const looks = 100
	for range looks {
		if inode, err := f.inode("crowd"); err != nil || inode != podNetns {
			t.Fatalf("inode = %d, %v; want %d", inode, err, podNetns)
		}
	}
	if p.read.starts != looks || p.read.namespaces != 0 || len(n.looked) != 0 {
		t.Errorf("%+v reads and %v listings for %d looks, want one read each", p.read, n.looked, looks)
	}
}

// A sandbox that has ended, or whose process id another process has by now, is
// looked for again.
func TestSandboxThatEndedIsLookedForAgain(t *testing.T) {
	for name, end := range map[string]func(*table){
		"ended":           func(p *table) { delete(p.starts, 10); delete(p.inodes, 10) },
		"process id used": func(p *table) { p.starts[10] = 90000 },
	} {
		f, p, _ := newCrowd()
		if _, err := f.inode("crowd"); err != nil {
			t.Fatal(err)
		}
		end(p)
		if inode, err := f.inode("crowd"); err != nil || inode != podNetns+1 {
			t.Errorf("%s: inode = %d, %v; want that of the oldest process left", name, inode, err)
		}
	}
}

// The runtime on its way into the pod is in the node's namespace: neither
// taken nor remembered.
func TestRuntimeIsNotRemembered(t *testing.T) {
	f, p, n := newCrowd()
	n.pids["crowd"] = []int{10}
	p.inodes[10] = nodeNetns
	if _, err := f.inode("crowd"); !errors.Is(err, errNoSandbox) {
		t.Errorf("error %v, want errNoSandbox", err)
	}
	p.inodes[10] = podNetns
	if inode, err := f.inode("crowd"); err != nil || inode != podNetns {
		t.Errorf("inode = %d, %v; want %d", inode, err, podNetns)
	}
}

func TestSandboxesOfPodsThatEndedAreForgotten(t *testing.T) {
	f, _, _ := newCrowd()
	if _, err := f.inode("crowd"); err != nil {
		t.Fatal(err)
	}
	f.forgetOthers([]workload.PodCgroup{{Path: "crowd"}})
	if len(f.known) != 1 {
		t.Error("the sandbox of a pod that runs is forgotten")
	}
	f.forgetOthers(nil)
	if len(f.known) != 0 {
		t.Errorf("remembered: %v", f.known)
	}
}

// A caller without a usable verdict has its own pod looked at, as often as its
// budget allows, and no other.
func TestLookAtOnePod(t *testing.T) {
	r, n := newWaiting(t)
	begun := time.Now()
	for range 10 * lookBurst {
		r.Look("starting")
		r.Look("stranger")
		select {
		case <-r.look:
			r.lookAt()
		default:
		}
	}
	most := lookBurst + int(time.Since(begun)/lookEvery) + 1
	if got := n.looked["starting"]; got < lookBurst || got > most || len(n.looked) != 1 {
		t.Errorf("looked at %v, want one pod, %d to %d times", n.looked, lookBurst, most)
	}
	n.cgroups = n.cgroups[1:]
	r.reconcile(false)
	if len(r.looks.budget) != 0 {
		t.Errorf("budgets of pods that ended: %v", r.looks.budget)
	}
}
