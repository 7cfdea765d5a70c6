package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"reflect"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listener is one tagged listening socket and its accept loop.
type listener struct {
	net.Listener
	netnsCookie uint64
}

// listen opens and tags a listener at the address in the calling thread's
// network namespace.
func listen(kernel Kernel, at netip.AddrPort) (*listener, error) {
	l := &listener{}
	config := net.ListenConfig{Control: func(_, _ string, socket syscall.RawConn) (err error) {
		l.netnsCookie, err = netnsCookie(socket)
		return err
	}}
	// The other end is in the same kernel and cannot be lost in silence: no
	// probes, and no four system calls to ask for them with each connection.
	config.KeepAlive = noProbes
	// A pod's connect is plain TCP, and MPTCP listeners cannot be looked up by
	// the kernel side.
	config.SetMultipathTCP(false)
	tcp, err := config.Listen(context.Background(), "tcp4", at.String())
	if err != nil {
		return nil, err
	}
	l.Listener = tcp
	if err := l.tag(kernel); err != nil {
		tcp.Close()
		return nil, err
	}
	return l, nil
}

func (l *listener) tag(kernel Kernel) error {
	socket, err := l.Listener.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	return kernel.Tag(socket)
}

func (l *listener) port() uint16 {
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// The pause after a failed accept, which doubles while it fails: what keeps one
// from accepting, descriptors or memory that are used up, passes, and the
// connections wait in the listener's queue.
const firstPause, longestPause = 5 * time.Millisecond, time.Second

// accept hands connections to serve until the listener is closed. It calls wait
// before it accepts each of them; nil: it does not.
func (l *listener) accept(serve func(net.Conn, uint64), cookie uint64, wait func(), log *slog.Logger) {
	pause := time.Duration(0)
	for {
		if wait != nil {
			wait()
		}
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if pause == 0 {
				log.Warn("cannot accept; connections wait in the queue", "listener", l.Addr().String(), "err", err)
			}
			pause = min(max(2*pause, firstPause), longestPause)
			time.Sleep(pause)
			continue
		}
		if pause > 0 {
			log.Info("accepts again", "listener", l.Addr().String())
			pause = 0
		}
		go serve(c, cookie)
	}
}

// listenInRange opens a listener on loopback at the first free port that the
// pod does not declare, from a random one on: it shall not be known in advance where
// a pod's listener will be.
func listenInRange(kernel Kernel, ports PortRange, declared []uint16) (*listener, error) {
	taken := make(map[uint16]bool, len(declared))
	for _, p := range declared {
		taken[p] = true
	}
	size := uint32(ports.Last-ports.First) + 1
	start := rand.Uint32N(size) // seeded by the operating system
	for i := range size {
		port := ports.First + uint16((start+i)%size)
		if taken[port] {
			continue
		}
		l, err := listen(kernel, netip.AddrPortFrom(loopback, port))
		if err == nil || !errors.Is(err, unix.EADDRINUSE) {
			return l, err
		}
	}
	return nil, fmt.Errorf("every port from %d to %d is taken", ports.First, ports.Last)
}

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// noProbes is the value of net.ListenConfig.KeepAlive for no keep-alive probes.
const noProbes time.Duration = -1

// withoutProbes has an adopted listener accept as one that was opened with
// net.ListenConfig.KeepAlive below zero. Go makes a listener of an open socket
// only with the default, and has no way to change it: it is a field that is not
// exported. Where a later Go has no such field, connections cost four more
// system calls each, and TestConnectionsAreNotProbed fails.
func withoutProbes(l *net.TCPListener) {
	field := reflect.ValueOf(l).Elem().FieldByName("lc")
	if !field.IsValid() || field.Type() != reflect.TypeFor[net.ListenConfig]() {
		return
	}
	config := (*net.ListenConfig)(field.Addr().UnsafePointer())
	config.KeepAlive = noProbes
}
