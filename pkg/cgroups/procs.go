package cgroups

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Self returns the cgroup id of the pod that this process runs in; inside is
// false if it runs in none of this tree's. It looks for the process in the
// tree, because /proc/self/cgroup is relative to a cgroup namespace whose
// place in the tree cannot be seen from within.
func (t *Tree) Self() (id uint64, inside bool, err error) {
	kubepods, err := ID(t.kubepods)
	if err != nil {
		return 0, false, err
	}
	pid, own := os.Getpid(), uint64(0)
	err = t.walk(kubepods, func(id uint64, dir int) (bool, error) {
		pids, err := procs(dir)
		if slices.Contains(pids, pid) {
			own = id
		}
		return own == 0, err
	})
	if err != nil || own == 0 {
		return 0, false, err
	}
	return t.podOf(own)
}

// podOf returns the cgroup id of the pod in which a cgroup lies; inside is false
// if it lies in none.
func (t *Tree) podOf(id uint64) (pod uint64, inside bool, err error) {
	fd, err := t.open(id)
	if err != nil {
		return 0, false, err
	}
	defer func() { _ = unix.Close(fd) }()
	rel, err := t.place(id, fd)
	if errors.Is(err, ErrNotPod) { // kubepods itself
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	dir, _, ok := splitPod(rel)
	if !ok {
		return 0, false, nil
	}
	pod, err = ID(t.kubepods + "/" + dir)
	return pod, err == nil, err
}

// Processes returns the process ids in the cgroup at path and in those below
// it, sorted, as this process's PID namespace numbers them; processes that it
// cannot see are left out. It returns ErrGone if there is no such cgroup.
func (t *Tree) Processes(path string) ([]int, error) {
	id, err := ID(path)
	if err != nil {
		return nil, err
	}
	var all []int
	err = t.walk(id, func(_ uint64, dir int) (bool, error) {
		pids, err := procs(dir)
		all = append(all, pids...)
		return true, err
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(all)
	// A process that moves while the tree is read may be met twice.
	return slices.Compact(all), nil
}

// walk visits the cgroup of the id and all below it, those above first, until
// visit returns false. Each is opened by its id: a container that may make
// cgroups can make them deeper than a path can be long, and than this process
// may have descriptors. What is gone by the time it is read is left out.
func (t *Tree) walk(id uint64, visit func(id uint64, dir int) (more bool, err error)) error {
	for next := []uint64{id}; len(next) > 0; next = next[1:] {
		fd, err := t.openAs(next[0], unix.O_RDONLY)
		if isGone(err) {
			continue
		}
		if err != nil {
			return err
		}
		dir := os.NewFile(uintptr(fd), "cgroup")
		more, err := visit(next[0], fd)
		var children []uint64
		if err == nil && more {
			children, err = childrenOf(dir)
		}
		_ = dir.Close()
		if err != nil || !more {
			return err
		}
		next = append(next, children...)
	}
	return nil
}

// childrenOf returns the ids of the cgroups directly in the one that is open.
func childrenOf(dir *os.File) ([]uint64, error) {
	entries, err := dir.ReadDir(-1)
	if err != nil && !isGone(err) {
		return nil, fmt.Errorf("cgroups: list children: %w", err)
	}
	var ids []uint64
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		var st unix.Stat_t
		err := unix.Fstatat(int(dir.Fd()), e.Name(), &st, unix.AT_SYMLINK_NOFOLLOW)
		if isGone(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cgroups: stat a child: %w", err)
		}
		ids = append(ids, st.Ino)
	}
	return ids, nil
}

// procs returns the processes directly in the cgroup that dir is open on.
func procs(dir int) ([]int, error) {
	data, err := readAt(dir, "cgroup.procs")
	// A threaded cgroup has no list of its own: its processes are listed in
	// the domain above it (Documentation/admin-guide/cgroup-v2.rst, Threads).
	if isGone(err) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cgroups: read processes: %w", err)
	}
	var pids []int
	for field := range strings.FieldsSeq(string(data)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("cgroups: read processes: %w", err)
		}
		if pid != 0 { // 0: not in this PID namespace
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func readAt(dir int, name string) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }()
	return io.ReadAll(f)
}
