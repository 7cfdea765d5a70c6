package delivery

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// errNoSandbox means that no process of the pod is in a network namespace of
// the pod's own yet, or any more.
var errNoSandbox = errors.New("the pod has no network namespace yet")

// sandboxFinder finds pods' network namespaces. It remembers the process whose
// namespace a pod's is, so that to look again costs one read, however many
// processes the pod has. Its methods may be called from several goroutines.
type sandboxFinder struct {
	proc      processes
	cgroups   Cgroups
	nodeInode uint64 // the node's network namespace

	mu    sync.Mutex
	known map[string]process // by the pod's cgroup
}

// processes is what is read of the node's processes.
type processes interface {
	// startTime returns when a process began, in clock ticks since boot.
	startTime(pid int) (uint64, error)
	// namespace opens the network namespace of a process.
	namespace(pid int) (*namespace, error)
}

// process is a pod's process and the network namespace that it was found in.
type process struct {
	pid   int
	start uint64
	inode uint64
}

func newSandboxFinder(o *Options, nodeInode uint64) sandboxFinder {
	return sandboxFinder{
		proc: procfs(o.Proc), cgroups: o.Cgroups, nodeInode: nodeInode, known: make(map[string]process),
	}
}

// remembered returns the process that is known to be in the pod's namespace, if
// that still runs.
func (f *sandboxFinder) remembered(cgroup string) (process, error) {
	f.mu.Lock()
	p, ok := f.known[cgroup]
	f.mu.Unlock()
	if !ok {
		return process{}, errNoSandbox
	}
	start, err := f.proc.startTime(p.pid)
	if workload.Exhausted(err) {
		return process{}, fmt.Errorf("look at the pod's sandbox: %w", err)
	}
	if err != nil || start != p.start {
		f.forget(cgroup)
		return process{}, errNoSandbox
	}
	return p, nil
}

func (f *sandboxFinder) forget(cgroup string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.known, cgroup)
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
	for cgroup := range f.known {
		if !present[cgroup] {
			delete(f.known, cgroup)
		}
	}
}

// inode returns which network namespace the pod is in.
func (f *sandboxFinder) inode(cgroup string) (uint64, error) {
	p, err := f.remembered(cgroup)
	if !errors.Is(err, errNoSandbox) {
		return p.inode, err
	}
	ns, err := f.find(cgroup)
	if err != nil {
		return 0, err
	}
	defer ns.close()
	return ns.inode, nil
}

// open opens the pod's network namespace. The caller closes the result.
func (f *sandboxFinder) open(cgroup string) (*namespace, error) {
	p, err := f.remembered(cgroup)
	if err == nil {
		ns, err := f.enterable(p.pid, p.start)
		if err == nil && ns.inode == p.inode {
			return ns, nil
		}
		if err == nil {
			ns.close()
		}
		if workload.Exhausted(err) {
			return nil, fmt.Errorf("open the pod's namespace: %w", err)
		}
		f.forget(cgroup)
	} else if !errors.Is(err, errNoSandbox) {
		return nil, err
	}
	return f.find(cgroup)
}

// find opens the network namespace of the pod's oldest process: the sandbox's
// first, before any that a container may have made. A process seen in the
// node's namespace is the runtime on its way into the pod, and does not
// count. It is remembered. The caller closes the result.
func (f *sandboxFinder) find(cgroup string) (*namespace, error) {
	pids, err := f.cgroups.Processes(cgroup)
	if err != nil {
		return nil, fmt.Errorf("list the pod's processes: %w", err)
	}
	all := make([]process, 0, len(pids))
	for _, pid := range pids {
		start, err := f.proc.startTime(pid)
		if workload.Exhausted(err) {
			return nil, fmt.Errorf("look at the pod's processes: %w", err)
		}
		if err == nil { // else it ended meanwhile
			all = append(all, process{pid: pid, start: start})
		}
	}
	slices.SortStableFunc(all, func(a, b process) int { return cmp.Compare(a.start, b.start) })
	for _, p := range all {
		ns, err := f.enterable(p.pid, p.start)
		if workload.Exhausted(err) {
			return nil, fmt.Errorf("look at the pod's processes: %w", err)
		}
		if err != nil {
			continue
		}
		p.inode = ns.inode
		f.mu.Lock()
		f.known[cgroup] = p
		f.mu.Unlock()
		return ns, nil
	}
	return nil, errNoSandbox
}

// enterable opens the network namespace of a process that began then, unless
// that is the node's.
func (f *sandboxFinder) enterable(pid int, start uint64) (*namespace, error) {
	ns, err := f.proc.namespace(pid)
	if err != nil {
		return nil, err
	}
	// The pid may have been given to another process meanwhile.
	again, err := f.proc.startTime(pid)
	if workload.Exhausted(err) {
		ns.close()
		return nil, err
	}
	if err != nil || again != start || ns.inode == f.nodeInode {
		ns.close()
		return nil, errNoSandbox
	}
	return ns, nil
}

// sandbox is a pod's network namespace, opened once at most.
type sandbox struct {
	finder *sandboxFinder
	cgroup string
	looked bool
	ns     *namespace
	err    error
}

// inode returns which namespace it is; it opens nothing where that is known.
func (s *sandbox) inode() (uint64, error) {
	if s.looked {
		if s.err != nil {
			return 0, s.err
		}
		return s.ns.inode, nil
	}
	return s.finder.inode(s.cgroup)
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
