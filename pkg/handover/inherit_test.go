package handover

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The holder accepts at a listener while the successor takes it in: neither
// ever has the socket in blocking mode, and neither would a
// Fd() of the successor's make it so.
func TestInheritedSocketIsNeverBlocking(t *testing.T) {
	shared, err := net.Listen("tcp4", "127.0.0.1:0")
	check(t, err)
	defer shared.Close()
	holder, successor := pair(t)
	seen := watch(t, shared.(syscall.Conn))
	for range 200 {
		check(t, send(holder, message{Kind: listener, Listener: &Listener{Role: Pod}}, shared.(syscall.Conn)))
		m, file, err := receive(successor)
		check(t, err)
		flags, err := unix.FcntlInt(file.Fd(), unix.F_GETFL, 0)
		check(t, err)
		if flags&unix.O_NONBLOCK == 0 {
			t.Fatal("Fd() of what was received makes the socket blocking")
		}
		var h received
		if _, err := h.add(m, file); err != nil {
			t.Fatal(err)
		}
		check(t, h.state.Close())
	}
	if looks, blocking := seen(); blocking > 0 || looks < 200 {
		t.Errorf("seen in blocking mode %d times of %d", blocking, looks)
	}
}

// watch looks at the socket's mode all the time. What is returned ends that, and
// returns how often it looked, and how often the socket was blocking.
func watch(t *testing.T, socket syscall.Conn) (end func() (looks, blocking int)) {
	t.Helper()
	raw, err := socket.SyscallConn()
	check(t, err)
	var looks, blocking int
	enough := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			select {
			case <-enough:
				return
			default:
			}
			_ = raw.Control(func(fd uintptr) {
				looks++
				if flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0); err == nil && flags&unix.O_NONBLOCK == 0 {
					blocking++
				}
			})
		}
	})
	end = sync.OnceValues(func() (int, int) {
		close(enough)
		watching.Wait()
		return looks, blocking
	})
	t.Cleanup(func() { end() })
	return end
}

// pair returns both ends of a connection as that of two agents.
func pair(t *testing.T) (holder, successor *net.UnixConn) {
	t.Helper()
	dir := stateDir(t)
	l, err := net.Listen(network, dir+"/pair")
	check(t, err)
	defer l.Close()
	dialed, err := net.Dial(network, dir+"/pair")
	check(t, err)
	accepted, err := l.Accept()
	check(t, err)
	t.Cleanup(func() { check(t, errors.Join(dialed.Close(), accepted.Close())) })
	return accepted.(*net.UnixConn), dialed.(*net.UnixConn)
}
