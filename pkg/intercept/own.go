package intercept

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// ErrRootCgroup means that the agent runs in the root cgroup, where nothing of
// it is attached, since every process of the node would run it.
var ErrRootCgroup = errors.New("the agent runs in the root cgroup: the first bytes of each connection wait " +
	"until it is accepted, up to 200 ms (start it in a cgroup of its own, as a service or a pod has)")

// rootCgroupID is the id of the cgroup2 hierarchy's root.
const rootCgroupID = 1

// AttachOwn is for an agent that runs outside kubepods: it attaches what notes
// the connections of its listeners at its own cgroup. The programs at kubepods
// do so for an agent in a pod. Like Attach, it may be called again. In the root
// cgroup it attaches nothing and returns ErrRootCgroup.
func (h *Hooks) AttachOwn(cgroup string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.repairs.tell(h.log)
	id, err := inode(cgroup)
	if err != nil {
		return err
	}
	if id == rootCgroupID {
		return ErrRootCgroup
	}
	own := h.own()
	if err := h.keep(h.cgroupPlace(cgroup, id, own)); err != nil {
		return fmt.Errorf("attach %s at %s: %w", own.name, cgroup, err)
	}
	return h.restorePins([]hook{own})
}

// own is the gate at the agent's own cgroup.
func (h *Hooks) own() hook {
	return hook{"own_egress", ebpf.AttachCGroupInetEgress, h.objects.SidestepGateEgress, false}
}
