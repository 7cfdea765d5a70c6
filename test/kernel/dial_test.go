package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/test/lab"
)

// dialing is what a process in a pod shall do with one socket.
type dialing struct {
	To       netip.AddrPort
	Mapped   bool           // an AF_INET6 socket that dials ::ffff:a.b.c.d
	UDP      bool           // a datagram socket
	Nonblock bool           // connect() returns EINPROGRESS
	Device   string         // SO_BINDTODEVICE
	Bind     netip.AddrPort // bind() first, with SO_REUSEADDR
	Before   netip.AddrPort // connect() here first, then AF_UNSPEC
	NewNetns bool           // in a nested network namespace with nothing but loopback
	Silent   bool           // close without waiting for an answer
	Copies   int            // this many sockets, all kept open; 0 is one

	Way       way    // how the socket is had and connected
	Path      string // with wayPassed: where the socket is offered
	BindToEth bool   // the test fills Bind with the pod's own address
	Impatient bool   // ETIMEDOUT after a second
	Keep      bool   // keep all open until the process is killed
	Again     int    // disconnect and connect once more, so often
}

// dialed is its result.
type dialed struct {
	Errno  unix.Errno // of connect(), or of the wait for an answer
	Peer   string     // what getpeername() says
	Answer answer     // the line that was read
	Opened int        // sockets that connected
}

// answer is what a listener of these tests says to each connection.
type answer struct {
	UID       string // the pod that the connection was attested to; "imds" from the stand-in
	Container string
	Err       string
}

var imds = netip.MustParseAddrPort(lab.IMDS + ":80")

func init() { lab.Register("dial", dialTask) }

// dialFrom runs the dialing as a process in the pod's container.
func dialFrom(t *testing.T, p *lab.Pod, d dialing) dialed {
	t.Helper()
	return dialIn(t, p, p.Container, d)
}

func dialIn(t *testing.T, p *lab.Pod, cgroup string, d dialing) dialed {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out, err := lab.RunIn[dialing, dialed](ctx, p, cgroup, "dial", d)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// begin has a process of the pod begin a connection to the metadata service that
// never comes about, since another gets the answers. It stays begun, with the
// claim on its flow, until release is called.
func begin(t *testing.T, p *lab.Pod, from netip.AddrPort) (release func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		got, err := lab.Run[dialing, dialed](ctx, p, "dial", dialing{To: imds, Bind: from, Nonblock: true, Keep: true})
		if ctx.Err() == nil {
			t.Errorf("the connection is not kept: %+v, %v", got, err)
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// dialTask is dial in a process of its own, which alone may leave its network
// namespace: the tests' process dials with threads that others need.
func dialTask(d dialing) (dialed, error) {
	if d.NewNetns {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return dialed{}, err
		}
	}
	return dial(d)
}

func dial(d dialing) (dialed, error) {
	var out dialed
	var open []int
	defer func() {
		if d.Keep {
			time.Sleep(time.Hour)
		}
		for _, fd := range open {
			unix.Close(fd)
		}
	}()
	if d.Way == wayInherited {
		return d.inherit()
	}
	for range max(d.Copies, 1) {
		fd, err := d.socket()
		if err != nil {
			return out, err
		}
		open = append(open, fd)
		if err = d.connect(fd); err == nil {
			err = d.again(fd)
		}
		if errors.As(err, &out.Errno) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out.Opened++
		if out.Peer, err = peer(fd); err != nil {
			return out, err
		}
		if !d.Silent && !d.UDP {
			out.Answer, err = read(fd)
			if errors.As(err, &out.Errno) {
				return out, nil
			}
			if err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

func (d dialing) socket() (int, error) {
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	if d.Mapped {
		family = unix.AF_INET6
	}
	if d.UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := d.obtain(family, kind)
	if err != nil {
		return 0, err
	}
	if d.Device != "" {
		if err := unix.BindToDevice(fd, d.Device); err != nil {
			return 0, fmt.Errorf("bind to %s: %w", d.Device, err)
		}
	}
	if d.Bind.IsValid() {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return 0, err
		}
		if err := unix.Bind(fd, d.address(d.Bind)); err != nil {
			return 0, fmt.Errorf("bind to %s: %w", d.Bind, err)
		}
	}
	return fd, nil
}

func (d dialing) connect(fd int) error {
	if d.Before.IsValid() {
		if err := unix.Connect(fd, d.address(d.Before)); err != nil {
			return err
		}
		// What connect(2) with AF_UNSPEC does; unix.Connect has no such address.
		unspec := unix.RawSockaddr{Family: unix.AF_UNSPEC}
		if err := rawConnect(fd, &unspec); err != nil {
			return err
		}
	}
	if d.Nonblock || d.Impatient {
		if err := unix.SetNonblock(fd, true); err != nil {
			return err
		}
	}
	err := d.establish(fd)
	if !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	return await(fd, d.Impatient)
}

// await waits for a non-blocking connect and returns its result.
func await(fd int, impatient bool) error {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	patience := 5000
	if impatient {
		patience = 1000
	}
	n, err := unix.Poll(poll, patience)
	if err == nil && n == 0 && impatient {
		return unix.ETIMEDOUT
	}
	if err != nil || n == 0 {
		return fmt.Errorf("poll: %d ready, %w", n, err)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		return err
	}
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil || errno == 0 {
		return err
	}
	return unix.Errno(errno)
}

func (d dialing) address(a netip.AddrPort) unix.Sockaddr {
	if d.Mapped {
		return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

func peer(fd int) (string, error) {
	a, err := unix.Getpeername(fd)
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String(), err
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)).String(), err
	}
	return "", err
}

func read(fd int) (answer, error) {
	deadline := unix.NsecToTimeval(int64(15 * time.Second))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &deadline); err != nil {
		return answer{}, err
	}
	var line []byte
	part := make([]byte, 512)
	for !bytes.ContainsRune(line, '\n') {
		n, err := unix.Read(fd, part)
		if errors.Is(err, unix.EINTR) {
			continue // a read with a timeout is not restarted
		}
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return answer{}, fmt.Errorf("read the answer: %w", err)
		}
		line = append(line, part[:n]...)
	}
	return parseAnswer(line)
}
