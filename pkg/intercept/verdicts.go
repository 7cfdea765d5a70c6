package intercept

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// decisions is what the programs decide by: settings, the verdicts of cgroups and
// the tags of listeners, and whom they found none for.
type decisions struct {
	objects *kernelObjects
	layouts *layouts
}

// SetVerdict applies an entry from the next connect on, from the cgroup, a
// pod's or a container's.
func (d *decisions) SetVerdict(cgroupID uint64, e workload.Entry) error {
	if e.Port != 0 && e.NetnsCookie == 0 {
		return errors.New("a listener's port needs its network namespace")
	}
	if err := d.objects.SidestepVerdicts.Update(cgroupID, toKernel(e), ebpf.UpdateAny); err != nil {
		return fmt.Errorf("set the verdict of cgroup %d: %w", cgroupID, err)
	}
	return nil
}

// DeleteVerdict makes the cgroup unknown. To delete what is not there is no
// error.
func (d *decisions) DeleteVerdict(cgroupID uint64) error {
	err := d.objects.SidestepVerdicts.Delete(cgroupID)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete the verdict of cgroup %d: %w", cgroupID, err)
	}
	return nil
}

// Verdict returns what is applied for the cgroup itself; false if nothing is.
func (d *decisions) Verdict(cgroupID uint64) (workload.Entry, bool, error) {
	var e kernelVerdictEntry
	err := d.objects.SidestepVerdicts.Lookup(cgroupID, &e)
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
func (d *decisions) Decided() ([]uint64, error) {
	var ids []uint64
	var id uint64
	var e kernelVerdictEntry
	entries := d.objects.SidestepVerdicts.Iterate()
	for entries.Next(&id, &e) {
		ids = append(ids, id)
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read the verdicts: %w", err)
	}
	others, err := d.layouts.decidedByOthers()
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
func (d *decisions) Tag(socket syscall.RawConn) error {
	var err error
	control := socket.Control(func(fd uintptr) {
		var tag kernelTag
		if tag, err = tagOf(int(fd)); err == nil {
			err = d.objects.SidestepTags.Update(int32(fd), tag, ebpf.UpdateAny)
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

// WatchUnknowns calls tell with the cgroup id of each caller that connects
// without a usable verdict, until ctx ends; then it returns nil. The kernel
// may leave callers out when it is faster than tell.
func (d *decisions) WatchUnknowns(ctx context.Context, tell func(cgroupID uint64)) error {
	reader, err := ringbuf.NewReader(d.objects.SidestepUnknowns)
	if err != nil {
		return fmt.Errorf("open the ring buffer: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { reader.Close() })
	defer stop()
	defer reader.Close()
	for {
		record, err := reader.Read()
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the ring buffer: %w", err)
		}
		var event kernelUnknownEvent
		if err := binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &event); err != nil {
			return fmt.Errorf("decode an event: %w", err)
		}
		tell(event.CgroupId)
	}
}
