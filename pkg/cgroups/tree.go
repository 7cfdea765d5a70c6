package cgroups

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// ErrGone is returned for a cgroup that does not exist any more. It satisfies
// errors.Is with fs.ErrNotExist.
var ErrGone = fmt.Errorf("cgroups: the cgroup is gone: %w", fs.ErrNotExist)

// fileidKernfs is the kernel's FILEID_KERNFS, a file handle type: a
// handle of 8 bytes, the kernfs node's id, which for cgroup2 is the cgroup id
// and the inode number.
const fileidKernfs = 0xfe

// Tree is the part of the cgroup2 hierarchy in which the kubelet puts pods.
// Its methods may be called from several goroutines.
type Tree struct {
	root     *os.File // the cgroup2 mount: its fd opens handles
	rootName string   // root's path as the kernel prints it
	rootPath string
	kubepods string // absolute
	rel      string // kubepods relative to root
	known    *known
	log      *slog.Logger

	ready     chan struct{}
	readyOnce sync.Once

	mu          sync.Mutex
	kubepodsID  uint64 // 0 while the directory is missing
	pods        map[string]workload.PodCgroup
	subscribers map[chan struct{}]struct{}
}

// Open returns the tree of the cgroup at kubepods, an absolute path on the
// cgroup2 mount at root. Resolving needs CAP_DAC_READ_SEARCH and a mount whose
// root is at or above kubepods; the caller's own cgroup namespace does not
// matter. The caller closes the tree after Run has returned.
func Open(root, kubepods string, log *slog.Logger) (*Tree, error) {
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, fmt.Errorf("cgroups: open the mount: %w", err)
	}
	if kubepods, err = filepath.EvalSymlinks(kubepods); err != nil {
		return nil, fmt.Errorf("cgroups: open kubepods: %w", err)
	}
	rel, ok := below(kubepods, root)
	if !ok {
		return nil, fmt.Errorf("cgroups: kubepods %s is not below the cgroup mount %s", kubepods, root)
	}
	id, err := ID(kubepods)
	if err != nil {
		return nil, err
	}
	dir, name, err := openMount(root)
	if err != nil {
		return nil, err
	}
	return &Tree{
		root: dir, rootName: name, rootPath: root, kubepods: kubepods, rel: rel, log: log,
		known:       &known{byID: map[uint64]seen{}},
		ready:       make(chan struct{}),
		kubepodsID:  id,
		pods:        map[string]workload.PodCgroup{},
		subscribers: map[chan struct{}]struct{}{},
	}, nil
}

// openMount opens the cgroup2 mount and returns it with its path as the kernel
// prints it for this process.
func openMount(root string) (*os.File, string, error) {
	// Not O_PATH: open_by_handle_at refuses such a descriptor as its mount.
	dir, err := os.OpenFile(root, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, "", fmt.Errorf("cgroups: open the mount: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		_ = dir.Close()
		return nil, "", fmt.Errorf("cgroups: statfs %s: %w", root, err)
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		_ = dir.Close()
		return nil, "", fmt.Errorf("cgroups: %s is not cgroup v2: set --cgroup-root", root)
	}
	name, err := fdPath(int(dir.Fd()))
	if err != nil {
		_ = dir.Close()
		return nil, "", err
	}
	return dir, name, nil
}

// Close gives the mount back.
func (t *Tree) Close() error {
	t.known.close()
	return t.root.Close()
}

// ID returns the id of the cgroup at path: the inode number of its directory,
// which the kernel gives no other cgroup while it runs. It returns ErrGone if
// there is no such cgroup.
func ID(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		if isGone(err) {
			return 0, fmt.Errorf("%w: %s", ErrGone, path)
		}
		return 0, fmt.Errorf("cgroups: stat %s: %w", path, err)
	}
	return st.Ino, nil
}

// Resolve returns the pod, and the container if there is one, that the cgroup
// id belongs to. It asks the kernel each time. It returns ErrGone if the
// cgroup does not exist any more and ErrNotPod if it lies in no pod of this
// node.
func (t *Tree) Resolve(id uint64) (workload.CgroupRef, error) {
	if ref, ok := t.known.find(id); ok {
		return ref, nil
	}
	fd, err := t.open(id)
	if err != nil {
		return workload.CgroupRef{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	ref, err := t.resolve(id, fd)
	if err == nil {
		t.known.add(id, ref, fd)
	}
	return ref, err
}

// open opens the cgroup's directory, to be looked up in.
func (t *Tree) open(id uint64) (fd int, err error) { return t.openAs(id, unix.O_PATH) }

func (t *Tree) openAs(id uint64, mode int) (fd int, err error) {
	handle := unix.NewFileHandle(fileidKernfs, binary.NativeEndian.AppendUint64(nil, id))
	fd, err = unix.OpenByHandleAt(int(t.root.Fd()), handle, mode|unix.O_DIRECTORY|unix.O_CLOEXEC)
	switch {
	case isGone(err):
		return -1, fmt.Errorf("%w: id %d", ErrGone, id)
	case errors.Is(err, unix.ENOTDIR): // the id of one of a cgroup's files
		return -1, fmt.Errorf("%w: id %d", ErrNotPod, id)
	case err != nil:
		return -1, fmt.Errorf("cgroups: open cgroup %d: %w", id, err)
	}
	return fd, nil
}

// resolve reads from the place of a cgroup that is open what it belongs to.
func (t *Tree) resolve(id uint64, fd int) (workload.CgroupRef, error) {
	rel, err := t.place(id, fd)
	if err != nil {
		return workload.CgroupRef{}, err
	}
	return parse(rel)
}

// place returns the path, relative to kubepods, of the cgroup that is open, or
// of one in which that lies where its own is too long: still below a
// container's.
func (t *Tree) place(id uint64, fd int) (rel string, err error) {
	path, err := fdPath(fd)
	if errors.Is(err, unix.ENAMETOOLONG) {
		return t.placeAbove(fd)
	}
	if err != nil {
		return "", err
	}
	if strings.HasSuffix(path, " (deleted)") { // removed since it was opened
		return "", fmt.Errorf("%w: id %d", ErrGone, id)
	}
	rel, ok := below(path, filepath.Join(t.rootName, t.rel))
	if !ok {
		return "", fmt.Errorf("%w: %q", ErrNotPod, path)
	}
	// For a cgroup outside the mount's root the kernel prints a path that
	// starts at the true root. It can only be taken for one of ours if that
	// leads to another cgroup.
	if got, err := ID(path); err != nil {
		return "", err
	} else if got != id {
		return "", fmt.Errorf("%w: %q", ErrNotPod, path)
	}
	return rel, nil
}

// placeAbove is place for the cgroup in which the open one lies.
func (t *Tree) placeAbove(fd int) (rel string, err error) {
	parent, err := unix.Openat(fd, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("cgroups: open a cgroup's parent: %w", err)
	}
	defer func() { _ = unix.Close(parent) }()
	var st unix.Stat_t
	if err := unix.Fstat(parent, &st); err != nil {
		return "", fmt.Errorf("cgroups: stat a cgroup's parent: %w", err)
	}
	return t.place(st.Ino, parent)
}

func fdPath(fd int) (string, error) {
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "", fmt.Errorf("cgroups: path of an open cgroup: %w", err)
	}
	return path, nil
}

// below returns path relative to dir if it lies below it.
func below(path, dir string) (string, bool) {
	rel, ok := strings.CutPrefix(path, strings.TrimSuffix(dir, "/")+"/")
	return rel, ok && rel != ""
}

// isGone reports whether err means that a cgroup was removed: before it was
// looked up, since its handle was made, or while its files were open.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENODEV)
}

// Snapshot returns the pods' cgroups as Run last saw them, sorted by path. It
// is empty before Ready. The caller must not change what the values point to.
func (t *Tree) Snapshot() []workload.PodCgroup {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.SortedFunc(maps.Values(t.pods), func(a, b workload.PodCgroup) int {
		return strings.Compare(a.Path, b.Path)
	})
}

// KubepodsID returns the cgroup id of kubepods, 0 while it does not exist. The
// kubelet may remove it and make it again, under another id: programs that
// were attached to the old one then see nothing.
func (t *Tree) KubepodsID() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.kubepodsID
}

// Ready is closed once Run has seen the whole tree.
func (t *Tree) Ready() <-chan struct{} { return t.ready }

// Subscribe returns a channel that gets a value after Snapshot or KubepodsID
// has changed; changes that were not read yet are one value. The function
// ends the subscription; the channel is never closed.
func (t *Tree) Subscribe() (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.subscribers[ch] = struct{}{}
	return ch, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.subscribers, ch)
	}
}

// replace puts the result of a whole scan in place.
func (t *Tree) replace(kubepodsID uint64, pods map[string]workload.PodCgroup) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kubepodsID == kubepodsID && maps.EqualFunc(t.pods, pods, equalPod) {
		return
	}
	t.kubepodsID, t.pods = kubepodsID, pods
	t.notify()
}

// put replaces one pod.
func (t *Tree) put(pod workload.PodCgroup) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old, ok := t.pods[pod.Path]; ok && equalPod(old, pod) {
		return
	}
	t.pods[pod.Path] = pod
	t.notify()
}

// drop takes one pod out.
func (t *Tree) drop(path string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.pods[path]; !ok {
		return
	}
	delete(t.pods, path)
	t.notify()
}

// notify tells the subscribers. The caller holds mu.
func (t *Tree) notify() {
	for ch := range t.subscribers {
		select {
		case ch <- struct{}{}:
		default: // the last value has not been read yet
		}
	}
}

func equalPod(a, b workload.PodCgroup) bool {
	return a.UID == b.UID && a.CgroupID == b.CgroupID && a.Path == b.Path &&
		slices.Equal(a.Containers, b.Containers)
}
