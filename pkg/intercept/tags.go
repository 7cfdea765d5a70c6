package intercept

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

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
