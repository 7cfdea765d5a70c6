package attest

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Inspect returns an accepted connection as the kernel's flow records name it:
// addresses without IPv4-mapping, and the network namespace cookie of the
// listener that accepted it (0 for the node listener). It returns
// ErrNotEstablished unless the socket is in TCP_ESTABLISHED, or in
// TCP_CLOSE_WAIT: the client has sent its request and the end of the stream, and
// may wait for the answer (docs/decisions/0004).
func (a *Attestor) Inspect(c net.Conn, netnsCookie uint64) (workload.Connection, error) {
	conn, err := inspect(c, netnsCookie)
	if err != nil {
		a.refuse(conn, err)
	}
	return conn, err
}

func inspect(c net.Conn, netnsCookie uint64) (workload.Connection, error) {
	conn := workload.Connection{
		NetnsCookie: netnsCookie,
		Client:      addrPort(c.RemoteAddr()),
		Server:      addrPort(c.LocalAddr()),
	}
	socket, ok := c.(syscall.Conn)
	if !ok {
		return conn, fmt.Errorf("%w: not a socket", ErrNotEstablished)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return conn, fmt.Errorf("%w: %w", ErrNotEstablished, err)
	}
	var info *unix.TCPInfo
	var infoErr error
	err = raw.Control(func(fd uintptr) {
		info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if err == nil {
		err = infoErr
	}
	if err != nil {
		return conn, fmt.Errorf("%w: TCP_INFO: %w", ErrNotEstablished, err)
	}
	// The states of TCP_INFO are those that the kernel exports to BPF
	// (include/uapi/linux/bpf.h).
	if info.State != unix.BPF_TCP_ESTABLISHED && info.State != unix.BPF_TCP_CLOSE_WAIT {
		return conn, fmt.Errorf("%w: TCP state %d", ErrNotEstablished, info.State)
	}
	return conn, nil
}

// addrPort returns a TCP address without IPv4-mapping; the zero value, which
// no record bears, for any other.
func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
