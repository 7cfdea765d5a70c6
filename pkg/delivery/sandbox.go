package delivery

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// errNoSandbox means that no process of the pod is in a network namespace of
// the pod's own yet, or any more.
var errNoSandbox = errors.New("the pod has no network namespace yet")

// sandboxFinder finds pods' network namespaces. It remembers the process whose
// namespace a pod's is, and hears from the kernel when that ends: to have the
// namespace again costs no look at any process, however many the pod has. Its
// methods may be called from several goroutines.
type sandboxFinder struct {
	proc      processes
	cgroups   Cgroups
	nodeInode uint64        // the node's network namespace
	news      chan struct{} // has one when there are some that were lost

	mu    sync.Mutex
	known map[string]process // by the pod's cgroup
	lost  map[string]bool    // pods' cgroups whose process is remembered no more
}

// processes is what is read of the node's processes.
type processes interface {
	// startTime returns when a process began, in clock ticks since boot.
	startTime(pid int) (uint64, error)
	// namespace opens the network namespace of a process.
	namespace(pid int) (*namespace, error)
	// hold opens the process that has the id now.
	hold(pid int) (lifetime, error)
}

// lifetime is that of a process which is held open.
type lifetime interface {
	// ended reports whether the process has ended, or close was called.
	ended() bool
	// await waits for that; true: the process has ended.
	await() bool
	close()
}

// process is a pod's process and the network namespace that it was found in.
type process struct {
	pid      int
	inode    uint64
	lifetime lifetime
}

func newSandboxFinder(proc processes, cgroups Cgroups, nodeInode uint64) *sandboxFinder {
	return &sandboxFinder{
		proc: proc, cgroups: cgroups, nodeInode: nodeInode, news: make(chan struct{}, 1),
		known: make(map[string]process), lost: make(map[string]bool),
	}
}

// remembered returns the process that was found in the pod's namespace, if that
// still runs.
func (f *sandboxFinder) remembered(cgroup string) (p process, ok bool) {
	f.mu.Lock()
	p, ok = f.known[cgroup]
	f.mu.Unlock()
	if ok && p.lifetime.ended() { // the news of it are under way
		f.lose(cgroup, p)
		ok = false
	}
	return p, ok
}

// remember makes the process, which is held, the pod's until it ends.
func (f *sandboxFinder) remember(cgroup string, p process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if other, ok := f.known[cgroup]; ok { // somebody else has found one meanwhile
		other.lifetime.close()
	}
	f.known[cgroup] = p
	go func() {
		if p.lifetime.await() {
			f.lose(cgroup, p)
		}
	}()
}

// lose forgets a process that has ended or is in another namespace, and has
// whoever waits for news look at its pod.
func (f *sandboxFinder) lose(cgroup string, p process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now, ok := f.known[cgroup]; !ok || now.lifetime != p.lifetime {
		return
	}
	p.lifetime.close()
	delete(f.known, cgroup)
	f.lost[cgroup] = true
	select {
	case f.news <- struct{}{}:
	default:
	}
}

// takeLost returns the pods' cgroups whose process was lost since the last call.
func (f *sandboxFinder) takeLost() map[string]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	lost := f.lost
	f.lost = make(map[string]bool)
	return lost
}

// forgetOthers drops what is remembered of pods that are not among these.
func (f *sandboxFinder) forgetOthers(running []workload.PodCgroup) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.known) == 0 {
		return
	}
	present := make(map[string]bool, len(running))
	for _, cg := range running {
		present[cg.Path] = true
	}
	for cgroup, p := range f.known {
		if !present[cgroup] {
			p.lifetime.close()
			delete(f.known, cgroup)
		}
	}
}

// open opens the pod's network namespace. The caller closes the result.
func (f *sandboxFinder) open(cgroup string) (*namespace, error) {
	if p, ok := f.remembered(cgroup); ok {
		ns, err := f.enter(p.pid, p.lifetime)
		if err == nil && ns.inode == p.inode {
			return ns, nil
		}
		if err == nil {
			ns.close()
		}
		if workload.Exhausted(err) {
			return nil, fmt.Errorf("open the pod's namespace: %w", err)
		}
		f.lose(cgroup, p)
	}
	return f.find(cgroup)
}

// find opens the network namespace of the pod's oldest process: the sandbox's
// first, before any that a container may have made. A process seen in the
// node's namespace is the runtime on its way into the pod, and does not
// count. It is remembered. The caller closes the result.
func (f *sandboxFinder) find(cgroup string) (*namespace, error) {
	pids, err := f.oldestFirst(cgroup)
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		ns, err := f.take(cgroup, pid)
		if workload.Exhausted(err) {
			return nil, fmt.Errorf("look at the pod's processes: %w", err)
		}
		if err == nil {
			return ns, nil
		}
	}
	return nil, errNoSandbox
}

// oldestFirst returns the pod's processes in the order in which they began.
func (f *sandboxFinder) oldestFirst(cgroup string) ([]int, error) {
	pids, err := f.cgroups.Processes(cgroup)
	if err != nil {
		return nil, fmt.Errorf("list the pod's processes: %w", err)
	}
	starts := make(map[int]uint64, len(pids))
	for _, pid := range pids {
		start, err := f.proc.startTime(pid)
		if workload.Exhausted(err) {
			return nil, fmt.Errorf("look at the pod's processes: %w", err)
		}
		if err == nil { // else it ended meanwhile
			starts[pid] = start
		}
	}
	return slices.SortedFunc(maps.Keys(starts), func(a, b int) int {
		return cmp.Or(cmp.Compare(starts[a], starts[b]), cmp.Compare(a, b))
	}), nil
}

// take opens the namespace of one of the pod's processes, and remembers that
// process.
func (f *sandboxFinder) take(cgroup string, pid int) (*namespace, error) {
	lifetime, err := f.proc.hold(pid)
	if err != nil {
		return nil, err
	}
	ns, err := f.enter(pid, lifetime)
	if err == nil {
		if err = f.belongs(cgroup, pid, lifetime); err == nil {
			f.remember(cgroup, process{pid: pid, inode: ns.inode, lifetime: lifetime})
			return ns, nil
		}
		ns.close()
	}
	lifetime.close()
	return nil, err
}

// belongs returns nil if the process that is held is one of the pod's: since it
// was listed its id may have been given to another.
func (f *sandboxFinder) belongs(cgroup string, pid int, lifetime lifetime) error {
	pids, err := f.cgroups.Processes(cgroup)
	if err == nil && (!slices.Contains(pids, pid) || lifetime.ended()) {
		err = errNoSandbox
	}
	return err
}

// enter opens the network namespace of a process that is held, unless that is
// the node's.
func (f *sandboxFinder) enter(pid int, lifetime lifetime) (*namespace, error) {
	ns, err := f.proc.namespace(pid)
	if err != nil {
		return nil, err
	}
	// While it has not ended, nobody else has its id.
	if lifetime.ended() || ns.inode == f.nodeInode {
		ns.close()
		return nil, errNoSandbox
	}
	return ns, nil
}

// close forgets all.
func (f *sandboxFinder) close() { f.forgetOthers(nil) }

// sandbox is a pod's network namespace, opened once at most.
type sandbox struct {
	finder *sandboxFinder
	cgroup string
	looked bool
	ns     *namespace
	err    error
}

// open returns the namespace, which belongs to the sandbox.
func (s *sandbox) open() (*namespace, error) {
	if !s.looked {
		s.ns, s.err = s.finder.open(s.cgroup)
		s.looked = true
	}
	return s.ns, s.err
}

func (s *sandbox) close() {
	if s.ns != nil {
		s.ns.close()
	}
}

// pidfd is a process that is held open: its id may be given to another once it
// has ended, but what is asked of the pidfd is about this one.
type pidfd struct {
	file *os.File
	conn syscall.RawConn
}

// openPidfd opens the process that has the id now. The caller closes the result.
func openPidfd(pid int) (*pidfd, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK) // else Go would not wait for it
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	p := &pidfd{file: os.NewFile(uintptr(fd), "pidfd")}
	if p.conn, err = p.file.SyscallConn(); err != nil {
		p.close()
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	return p, nil
}

// ended reports whether the process has ended; also once the pidfd is closed.
func (p *pidfd) ended() bool {
	ended := true
	if err := p.conn.Control(func(fd uintptr) { ended = readable(fd) }); err != nil {
		return true
	}
	return ended
}

// await waits until the process has ended, which it reports, or until the pidfd
// is closed.
func (p *pidfd) await() (ended bool) { return p.conn.Read(readable) == nil }

func (p *pidfd) close() { p.file.Close() }

// readable reports whether the process of a pidfd has ended (pidfd_open(2)).
func readable(fd uintptr) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if err != unix.EINTR {
			return n > 0
		}
	}
}

// procfs is the path of the host's procfs.
type procfs string

func (p procfs) of(pid int, file string) string {
	return filepath.Join(string(p), strconv.Itoa(pid), file)
}

func (p procfs) namespace(pid int) (*namespace, error) { return openNamespace(p.of(pid, "ns/net")) }

// startTime is field 22 of /proc/<pid>/stat (proc(5)), counted after the
// command's name, which may have spaces and brackets of its own.
func (p procfs) startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(p.of(pid, "stat"))
	if err != nil {
		return 0, err
	}
	end := bytes.LastIndexByte(stat, ')')
	fields := bytes.Fields(stat[end+1:])
	const field = 22 - 3 // the first after the name is field 3
	if end < 0 || len(fields) <= field {
		return 0, fmt.Errorf("%s: unknown form", p.of(pid, "stat"))
	}
	return strconv.ParseUint(string(fields[field]), 10, 64)
}

func (procfs) hold(pid int) (lifetime, error) { return openPidfd(pid) }

// namespace is an open network namespace.
type namespace struct {
	file  *os.File
	inode uint64
}

func openNamespace(path string) (*namespace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		f.Close()
		return nil, fmt.Errorf("stat %s: %w", path, err)
	}
	return &namespace{file: f, inode: stat.Ino}, nil
}

func (n *namespace) close() { n.file.Close() }

// do runs fn on a thread inside the namespace. A socket that fn makes belongs
// to the namespace for good; the thread comes back to its own, or is thrown
// away if it cannot.
func (n *namespace) do(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			result <- err
			return
		}
		defer back.Close()
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter the network namespace: %w", err)
			return
		}
		err = fn()
		if home := unix.Setns(int(back.Fd()), unix.CLONE_NEWNET); home != nil {
			// Still locked: the runtime ends the thread with this goroutine.
			result <- errors.Join(err, fmt.Errorf("leave the network namespace: %w", home))
			return
		}
		runtime.UnlockOSThread()
		result <- err
	}()
	return <-result
}
