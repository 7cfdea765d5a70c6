package delivery

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// errNoSandbox means that no process of the pod is in a network namespace of
// the pod's own yet, or any more.
var errNoSandbox = errors.New("the pod has no network namespace yet")

// sandboxFinder finds pods' network namespaces.
type sandboxFinder struct {
	proc      string
	cgroups   Cgroups
	nodeInode uint64 // the node's network namespace
}

// find opens the network namespace of the pod's oldest process: the sandbox's
// first, before any that a container may have made. A process seen in the
// node's namespace is the runtime on its way into the pod, and does not
// count. The caller closes the result.
func (f *sandboxFinder) find(cgroup string) (*namespace, error) {
	pids, err := f.cgroups.Processes(cgroup)
	if err != nil {
		return nil, fmt.Errorf("list the pod's processes: %w", err)
	}
	var oldest *namespace
	var oldestStart uint64
	for _, pid := range pids {
		ns, start, err := f.inspect(pid)
		if workload.Exhausted(err) {
			if oldest != nil {
				oldest.close()
			}
			return nil, fmt.Errorf("look at the pod's processes: %w", err)
		}
		if err != nil {
			continue // it ended meanwhile, or is in the node's namespace
		}
		if oldest != nil && start >= oldestStart {
			ns.close()
			continue
		}
		if oldest != nil {
			oldest.close()
		}
		oldest, oldestStart = ns, start
	}
	if oldest == nil {
		return nil, errNoSandbox
	}
	return oldest, nil
}

// sandbox is a pod's network namespace, looked for once at most.
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
		s.ns, s.err = s.finder.find(s.cgroup)
		s.looked = true
	}
	return s.ns, s.err
}

func (s *sandbox) close() {
	if s.ns != nil {
		s.ns.close()
	}
}

func (f *sandboxFinder) inspect(pid int) (*namespace, uint64, error) {
	dir := filepath.Join(f.proc, strconv.Itoa(pid))
	start, err := startTime(dir)
	if err != nil {
		return nil, 0, err
	}
	ns, err := openNamespace(filepath.Join(dir, "ns/net"))
	if err != nil {
		return nil, 0, err
	}
	// The pid may have been given to another process between the two reads.
	again, err := startTime(dir)
	if workload.Exhausted(err) {
		ns.close()
		return nil, 0, err
	}
	if err != nil || again != start || ns.inode == f.nodeInode {
		ns.close()
		return nil, 0, errNoSandbox
	}
	return ns, start, nil
}

// startTime reads when a process began, in clock ticks since boot: field 22
// of /proc/<pid>/stat (proc(5)), counted after the command's name, which may
// have spaces and brackets of its own.
func startTime(dir string) (uint64, error) {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return 0, err
	}
	end := bytes.LastIndexByte(stat, ')')
	fields := bytes.Fields(stat[end+1:])
	const field = 22 - 3 // the first after the name is field 3
	if end < 0 || len(fields) <= field {
		return 0, fmt.Errorf("%s/stat: unknown form", dir)
	}
	return strconv.ParseUint(string(fields[field]), 10, 64)
}
