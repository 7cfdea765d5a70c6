package intercept

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// SetVerdict puts a verdict in force for the next connect from the cgroup, a
// pod's or a container's. Port and netnsCookie say where a steered pod's
// listener is; port 0 steers to the node listener.
func (h *Hooks) SetVerdict(cgroupID uint64, verdict workload.Verdict, port uint16, netnsCookie uint64) error {
	if port != 0 && netnsCookie == 0 {
		return errors.New("a listener's port needs its network namespace")
	}
	err := h.objects.SidestepVerdicts.Update(cgroupID, kernelVerdictEntry{
		NetnsCookie: netnsCookie,
		Verdict:     kernelVerdict(verdict),
		Port:        uint32(port),
	}, ebpf.UpdateAny)
	if err != nil {
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

// Entry is the verdict in force for one cgroup.
type Entry struct {
	Verdict workload.Verdict
	// Port is the listener's on 127.0.0.1 in the namespace NetnsCookie; 0 is
	// the node listener.
	Port        uint16
	NetnsCookie uint64
}

// Verdict returns the verdict in force for the cgroup itself; false if it has
// none.
func (h *Hooks) Verdict(cgroupID uint64) (Entry, bool, error) {
	var e kernelVerdictEntry
	err := h.objects.SidestepVerdicts.Lookup(cgroupID, &e)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return Entry{}, false, nil
	}
	if err != nil {
		return Entry{}, false, fmt.Errorf("read the verdict of cgroup %d: %w", cgroupID, err)
	}
	return Entry{workload.Verdict(e.Verdict), uint16(e.Port), e.NetnsCookie}, true, nil
}

// Decided returns the ids of all cgroups that have a verdict, those that an
// earlier agent wrote too.
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
	return ids, nil
}
