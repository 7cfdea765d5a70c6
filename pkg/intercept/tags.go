package intercept

import (
	"fmt"
	"syscall"

	"github.com/cilium/ebpf"
)

// Tag marks a listening socket as the agent's. The programs steer to no other;
// the mark ends with the socket.
func (h *Hooks) Tag(socket syscall.RawConn) error {
	var err error
	control := socket.Control(func(fd uintptr) {
		err = h.objects.SidestepTags.Update(int32(fd), uint32(1), ebpf.UpdateAny)
	})
	if control != nil {
		return control
	}
	if err != nil {
		return fmt.Errorf("tag the listener: %w", err)
	}
	return nil
}
