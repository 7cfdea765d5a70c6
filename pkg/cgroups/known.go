package cgroups

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// witness is a file that every cgroup but the root has, and that the kernel
	// shows without a lock (kernel/cgroup/cgroup.c, cgroup_max_depth_show).
	witness = "cgroup.max.depth"
	// maxKnown bounds the witnesses kept open. A node has fewer containers.
	maxKnown = 4096
)

// known has the cgroups that were resolved. Where a cgroup lies never changes,
// since cgroup v2 renames none, so all that is to be asked again is whether it
// still exists: one read of a file in it that is kept open, which fails from
// its removal on.
type known struct {
	mu   sync.RWMutex
	byID map[uint64]seen
}

// seen is a cgroup that was resolved.
type seen struct {
	ref     workload.CgroupRef
	witness int // its open file
}

// find returns what is known of the cgroup if it exists; false says nothing.
func (k *known) find(id uint64) (workload.CgroupRef, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock() // until then the file is not closed
	s, ok := k.byID[id]
	return s.ref, ok && s.exists()
}

// exists asks the kernel. Of a removed cgroup, a file that is still open reads
// as ENODEV.
func (s seen) exists() bool {
	var one [1]byte
	n, err := unix.Pread(s.witness, one[:], 0)
	return err == nil && n == 1
}

// add keeps what was found out about the cgroup of the id, which dir is open
// on. Where the file cannot be opened nothing is kept.
func (k *known) add(id uint64, ref workload.CgroupRef, dir int) {
	file, err := unix.Openat(dir, witness, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.byID) >= maxKnown {
		k.sweep()
	}
	if _, twice := k.byID[id]; twice || len(k.byID) >= maxKnown {
		_ = unix.Close(file)
		return
	}
	k.byID[id] = seen{ref, file}
}

// forgetGone drops the cgroups that exist no more.
func (k *known) forgetGone() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sweep()
}

// forgetPod drops the cgroups of the pod that exist no more.
func (k *known) forgetPod(uid string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, s := range k.byID {
		if s.ref.PodUID == uid {
			k.dropGone(id, s)
		}
	}
}

// sweep is forgetGone for who has the lock.
func (k *known) sweep() {
	for id, s := range k.byID {
		k.dropGone(id, s)
	}
}

// dropGone drops the cgroup if it exists no more. The caller holds the lock.
func (k *known) dropGone(id uint64, s seen) {
	if !s.exists() {
		_ = unix.Close(s.witness)
		delete(k.byID, id)
	}
}

// close drops all.
func (k *known) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.byID {
		_ = unix.Close(s.witness)
	}
	clear(k.byID)
}
