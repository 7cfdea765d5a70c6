package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/intercept"
)

// attachOwn attaches what an agent outside kubepods needs at its own cgroup. An
// agent in a pod has all that it needs at kubepods.
func (a *agent) attachOwn() error {
	if a.self != 0 {
		return nil
	}
	own, err := ownCgroup(a.options.cgroupRoot)
	if err != nil {
		return err
	}
	err = a.hooks.AttachOwn(own)
	if errors.Is(err, intercept.ErrRootCgroup) {
		a.rootCgroup.Do(func() { a.log.Warn("nothing is attached at the own cgroup of the agent", "err", err) })
		return nil
	}
	return err
}

// ownCgroup returns the path of this process's cgroup, below the mount at root.
func ownCgroup(root string) (string, error) {
	membership, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find the agent's own cgroup: %w", err)
	}
	for line := range strings.Lines(string(membership)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Join(root, path), nil
		}
	}
	return "", errors.New("find the agent's own cgroup: it is in no cgroup of version 2")
}

// namespaces returns the network namespaces in which the pod with the cgroup has
// processes, each once, by paths.
func (a *agent) namespaces(podCgroupID uint64) ([]string, error) {
	var all []string
	var inodes []uint64
	for _, pod := range a.tree.Snapshot() {
		if pod.CgroupID != podCgroupID {
			continue
		}
		pids, err := a.tree.Processes(pod.Path)
		if err != nil {
			return nil, err
		}
		for _, pid := range pids {
			path := filepath.Join(a.options.proc, fmt.Sprint(pid), "ns/net")
			var stat unix.Stat_t
			if err := unix.Stat(path, &stat); err != nil {
				continue // the process has ended
			}
			if !slices.Contains(inodes, stat.Ino) {
				inodes, all = append(inodes, stat.Ino), append(all, path)
			}
		}
	}
	return all, nil
}
