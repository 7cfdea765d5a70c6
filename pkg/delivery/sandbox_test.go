package delivery

import (
	"errors"
	"io/fs"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// table is a process table whose reads are counted.
type table struct {
	starts    map[int]uint64 // by process
	inodes    map[int]uint64
	lifetimes map[int]*span // of those that were held last
	read      struct{ starts, namespaces int }
}

// span is the lifetime of a process that a test ends.
type span struct{ over, closed chan struct{} }

func (s *span) ended() bool { return closed(s.over) || closed(s.closed) }

func (s *span) await() bool {
	select {
	case <-s.over:
		return true
	case <-s.closed:
		return false
	}
}

func (s *span) close() { closeOnce(s.closed) }

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

func (p *table) hold(pid int) (lifetime, error) {
	if _, ok := p.starts[pid]; !ok {
		return nil, fs.ErrNotExist
	}
	s := &span{over: make(chan struct{}), closed: make(chan struct{})}
	p.lifetimes[pid] = s
	return s, nil
}

// end ends a process.
func (p *table) end(pid int) {
	delete(p.starts, pid)
	delete(p.inodes, pid)
	close(p.lifetimes[pid].over)
}

const nodeNetns, podNetns = 1, 2

// newCrowd returns a finder on whose node one pod has a sandbox, with process
// 10, and many processes besides.
func newCrowd(t *testing.T) (*sandboxFinder, *table, *node) {
	t.Helper()
	p := &table{starts: map[int]uint64{10: 100}, inodes: map[int]uint64{10: podNetns}, lifetimes: map[int]*span{}}
	n := &node{pids: map[string][]int{"crowd": {10}}, looked: map[string]int{}}
	for pid := 11; pid < 5000; pid++ {
		p.starts[pid], p.inodes[pid] = uint64(pid)*10, podNetns+1 // of its own making
		n.pids["crowd"] = append(n.pids["crowd"], pid)
	}
	f := newSandboxFinder(p, n, nodeNetns)
	t.Cleanup(f.close)
	return f, p, n
}

func wantInode(t *testing.T, f *sandboxFinder, want uint64) {
	t.Helper()
	ns, err := f.open("crowd")
	if err != nil {
		t.Fatalf("open: %v, want namespace %d", err, want)
	}
	defer ns.close()
	if ns.inode != want {
		t.Errorf("opened namespace %d, want %d", ns.inode, want)
	}
}

// However many processes a pod has, to open its namespace again looks at none.
func TestKnownSandboxIsOpenedWithoutALook(t *testing.T) {
	f, p, n := newCrowd(t)
	wantInode(t, f, podNetns)
	p.read.starts, p.read.namespaces = 0, 0
	clear(n.looked)
	const times = 100
	for range times {
		wantInode(t, f, podNetns)
	}
	if p.read.starts != 0 || p.read.namespaces != times || len(n.looked) != 0 {
		t.Errorf("%+v reads and %v listings for %d times, want that the namespace is opened and nothing else", p.read, n.looked, times)
	}
}

// A sandbox that has ended, whose process id another process has by now, or
// that is in another namespace than it was, is looked for again.
func TestSandboxThatIsLostIsLookedForAgain(t *testing.T) {
	for name, tc := range map[string]struct {
		what func(*table)
		want uint64
	}{
		"ended":           {func(p *table) { p.end(10) }, podNetns + 1}, // of the oldest that is left
		"process id used": {func(p *table) { p.end(10); p.starts[10], p.inodes[10] = 90000, 77 }, podNetns + 1},
		"namespace left":  {func(p *table) { p.inodes[10] = 78 }, 78},
	} {
		f, p, _ := newCrowd(t)
		wantInode(t, f, podNetns)
		tc.what(p)
		t.Log(name)
		wantInode(t, f, tc.want)
		<-f.news
		if lost := f.takeLost(); !lost["crowd"] || len(lost) != 1 {
			t.Errorf("%s: lost %v, want the pod", name, lost)
		}
	}
}

// The end of a sandbox is heard of without a look.
func TestEndOfASandboxIsNews(t *testing.T) {
	f, p, _ := newCrowd(t)
	wantInode(t, f, podNetns)
	p.end(10)
	<-f.news
	if lost := f.takeLost(); !lost["crowd"] {
		t.Errorf("lost %v, want the pod", lost)
	}
	if len(f.known) != 0 {
		t.Errorf("still remembered: %v", f.known)
	}
}

// moved is a pod of which a process has gone by the time it is listed again.
type moved struct {
	*node
	pid int
}

func (m *moved) Processes(path string) ([]int, error) {
	pids, err := m.node.Processes(path)
	if m.looked[path] > 1 {
		pids = slices.DeleteFunc(slices.Clone(pids), func(pid int) bool { return pid == m.pid })
	}
	return pids, err
}

// Between the list of a pod's processes and the look at one, its id may be given
// to a process of another pod.
func TestProcessOfAnotherPodIsNotTaken(t *testing.T) {
	_, p, n := newCrowd(t)
	f := newSandboxFinder(p, &moved{n, 10}, nodeNetns)
	t.Cleanup(f.close)
	wantInode(t, f, podNetns+1)
	if !p.lifetimes[10].ended() {
		t.Error("the other pod's process is still held")
	}
}

// The runtime on its way into the pod is in the node's namespace: neither
// taken nor remembered.
func TestRuntimeIsNotRemembered(t *testing.T) {
	f, p, n := newCrowd(t)
	n.pids["crowd"] = []int{10}
	p.inodes[10] = nodeNetns
	if _, err := f.open("crowd"); !errors.Is(err, errNoSandbox) {
		t.Errorf("error %v, want errNoSandbox", err)
	}
	if len(f.known) != 0 || !p.lifetimes[10].ended() {
		t.Errorf("remembered: %v", f.known)
	}
	p.inodes[10] = podNetns
	wantInode(t, f, podNetns)
}

func TestSandboxesOfPodsThatEndedAreForgotten(t *testing.T) {
	f, p, _ := newCrowd(t)
	wantInode(t, f, podNetns)
	f.forgetOthers([]workload.PodCgroup{{Path: "crowd"}})
	if len(f.known) != 1 {
		t.Error("the sandbox of a pod that runs is forgotten")
	}
	f.forgetOthers(nil)
	if len(f.known) != 0 || !p.lifetimes[10].ended() {
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

func startProcess(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func TestEndOfAProcessIsHeardOf(t *testing.T) {
	cmd := startProcess(t)
	p, err := openPidfd(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if p.ended() {
		t.Fatal("a process that runs has ended")
	}
	heard := make(chan bool)
	go func() { heard <- p.await() }()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if !<-heard || !p.ended() { // also before its parent has waited for it
		t.Error("its end was not heard of")
	}
}

func TestClosedPidfdIsWaitedForByNobody(t *testing.T) {
	p, err := openPidfd(startProcess(t).Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan bool)
	go func() { heard <- p.await() }()
	p.close()
	if <-heard {
		t.Error("a process that runs was heard to have ended")
	}
	if !p.ended() {
		t.Error("a pidfd that is closed says nothing, so it must not say that the process runs")
	}
}
