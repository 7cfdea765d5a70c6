package intercept

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// SetVerdict applies an entry from the next connect on, from the cgroup, a
// pod's or a container's.
func (h *Hooks) SetVerdict(cgroupID uint64, e workload.Entry) error {
	if e.Port != 0 && e.NetnsCookie == 0 {
		return errors.New("a listener's port needs its network namespace")
	}
	if err := h.objects.SidestepVerdicts.Update(cgroupID, toKernel(e), ebpf.UpdateAny); err != nil {
		return fmt.Errorf("set the verdict of cgroup %d: %w", cgroupID, err)
	}
	return nil
}

// DeleteVerdict makes the cgroup unknown. To delete what is not there is no
// error.
func (h *Hooks) DeleteVerdict(cgroupID uint64) error {
	err := h.objects.SidestepVerdicts.Delete(cgroupID)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete the verdict of cgroup %d: %w", cgroupID, err)
	}
	return nil
}

// Verdict returns what is applied for the cgroup itself; false if nothing is.
func (h *Hooks) Verdict(cgroupID uint64) (workload.Entry, bool, error) {
	var e kernelVerdictEntry
	err := h.objects.SidestepVerdicts.Lookup(cgroupID, &e)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return workload.Entry{}, false, nil
	}
	if err != nil {
		return workload.Entry{}, false, fmt.Errorf("read the verdict of cgroup %d: %w", cgroupID, err)
	}
	return fromKernel(e), true, nil
}

// Decided returns the ids of all cgroups that have a verdict, those that an
// earlier agent wrote too, also one of another layout.
func (h *Hooks) Decided() ([]uint64, error) {
	var ids []uint64
	var id uint64
	var e kernelVerdictEntry
	entries := h.objects.SidestepVerdicts.Iterate()
	for entries.Next(&id, &e) {
		ids = append(ids, id)
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read the verdicts: %w", err)
	}
	others, err := h.decidedByOthers()
	return append(ids, others...), err
}

// entryFlags pairs each flag with its field, for both directions.
var entryFlags = []struct {
	flag  kernelEntryFlags
	field func(*workload.Entry) *bool
}{
	{kernelEntryFlagsENTRY_WIRESERVER_DENY, func(e *workload.Entry) *bool { return &e.DenyWireServer }},
	{kernelEntryFlagsENTRY_SHARED, func(e *workload.Entry) *bool { return &e.Shared }},
	{kernelEntryFlagsENTRY_AGENT, func(e *workload.Entry) *bool { return &e.Agent }},
}

func toKernel(e workload.Entry) kernelVerdictEntry {
	k := kernelVerdictEntry{
		NetnsCookie: e.NetnsCookie, Verdict: kernelVerdict(e.Verdict), Port: uint32(e.Port),
	}
	for _, f := range entryFlags {
		if *f.field(&e) {
			k.Flags |= f.flag
		}
	}
	return k
}

func fromKernel(k kernelVerdictEntry) workload.Entry {
	e := workload.Entry{
		NetnsCookie: k.NetnsCookie, Verdict: workload.Verdict(k.Verdict), Port: uint16(k.Port),
	}
	for _, f := range entryFlags {
		*f.field(&e) = k.Flags&f.flag != 0
	}
	return e
}

// Tag marks a listening IPv4 socket as the agent's. The programs steer to no
// other, and let clients exchange data with it alone; the mark ends with the
// socket.
func (h *Hooks) Tag(socket syscall.RawConn) error {
	var err error
	control := socket.Control(func(fd uintptr) {
		var tag kernelTag
		if tag, err = tagOf(int(fd)); err == nil {
			err = h.objects.SidestepTags.Update(int32(fd), tag, ebpf.UpdateAny)
		}
	})
	if control != nil {
		return control
	}
	if err != nil {
		return fmt.Errorf("tag the listener: %w", err)
	}
	return nil
}

// tagOf returns what the flows of a listener's connections have in their keys.
// Those of the node listener, which is not on loopback, name no namespace.
func tagOf(fd int) (kernelTag, error) {
	address, err := unix.Getsockname(fd)
	if err != nil {
		return kernelTag{}, err
	}
	at, ok := address.(*unix.SockaddrInet4)
	if !ok {
		return kernelTag{}, errors.New("not an IPv4 socket")
	}
	tag := kernelTag{ServerAddr: addressWord4(at.Addr), ServerPort: uint32(at.Port)}
	if at.Addr[0] == 127 {
		tag.NetnsCookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	}
	return tag, err
}
