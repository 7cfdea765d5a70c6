package cgroups

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	dirs, err := cgroupsBelow(t.kubepods)
	if err != nil {
		return 0, false, err
	}
	pid := os.Getpid()
	for _, dir := range dirs {
		pids, err := procs(dir)
		if err != nil {
			return 0, false, err
		}
		if !slices.Contains(pids, pid) {
			continue
		}
		rel, _ := below(dir, t.kubepods)
		pod, _, ok := splitPod(rel)
		if !ok {
			return 0, false, nil
		}
		id, err := ID(filepath.Join(t.kubepods, pod))
		return id, err == nil, err
	}
	return 0, false, nil
}

// Processes returns the process ids in the cgroup at path and in those below
// it, sorted, as this process's PID namespace numbers them; processes that it
// cannot see are left out. It returns ErrGone if there is no such cgroup.
func (t *Tree) Processes(path string) ([]int, error) {
	if _, err := ID(path); err != nil {
		return nil, err
	}
	dirs, err := cgroupsBelow(path)
	if err != nil {
		return nil, err
	}
	var all []int
	for _, dir := range dirs {
		pids, err := procs(dir)
		if err != nil {
			return nil, err
		}
		all = append(all, pids...)
	}
	slices.Sort(all)
	// A process that moves while the tree is read may be met twice.
	return slices.Compact(all), nil
}

// cgroupsBelow returns dir and every cgroup below it, parents first. What is
// gone by the time it is read is left out.
func cgroupsBelow(dir string) ([]string, error) {
	names, err := subdirs(dir)
	if isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cgroups: list %s: %w", dir, err)
	}
	dirs := []string{dir}
	for _, name := range names {
		children, err := cgroupsBelow(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, children...)
	}
	return dirs, nil
}

// procs returns the processes directly in the cgroup at dir.
func procs(dir string) ([]int, error) {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
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
			return nil, fmt.Errorf("cgroups: read processes of %s: %w", dir, err)
		}
		if pid != 0 { // 0: not in this PID namespace
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
