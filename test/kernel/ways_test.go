package kernel

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/test/lab"
)

// way is how a process comes by a socket and connects it; the zero value is
// socket() and connect().
type way int

const (
	wayPlain           way = iota
	wayMPTCP               // an MPTCP socket
	wayFastOpen            // sendto() with MSG_FASTOPEN, no connect()
	wayFastOpenConnect     // TCP_FASTOPEN_CONNECT: the SYN leaves with the first write
	wayIOUring             // IORING_OP_CONNECT
	wayIOUringAsync        // the same in a worker thread
	wayPassed              // the socket comes from another process
	wayInherited           // a parent opened the socket
	wayDescriptor          // the socket is descriptor 3
)

func init() {
	lab.Register("offer", offer)
}

func (d dialing) obtain(family, kind int) (int, error) {
	switch d.Way {
	case wayMPTCP:
		return unix.Socket(family, kind|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	case wayPassed:
		return takeSocket(d.Path)
	case wayDescriptor:
		return 3, nil
	}
	return unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
}

// establish does what connect() does.
func (d dialing) establish(fd int) error {
	to := d.address(d.To)
	switch d.Way {
	case wayFastOpen:
		if err := unix.Sendto(fd, []byte("GET"), unix.MSG_FASTOPEN, to); err != nil {
			return err
		}
		return unix.EINPROGRESS
	case wayFastOpenConnect:
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1); err != nil {
			return err
		}
		if err := unix.Connect(fd, to); err != nil {
			return err
		}
		if _, err := unix.Write(fd, []byte("GET")); err != nil {
			return err
		}
		return unix.EINPROGRESS
	case wayIOUring, wayIOUringAsync:
		return ringConnect(fd, d.To, d.Way == wayIOUringAsync)
	}
	return unix.Connect(fd, to)
}

// inherit opens the socket and leaves the rest to a child process.
func (d dialing) inherit() (out dialed, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return out, err
	}
	d.Way = wayDescriptor
	input, err := json.Marshal(d)
	if err != nil {
		return out, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = lab.TaskEnvironment("dial")
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "socket")}
	cmd.Stdin = bytes.NewReader(input)
	output, err := cmd.Output()
	if err != nil {
		return out, err
	}
	return out, json.Unmarshal(output, &out)
}

// offer opens a TCP socket and hands it to whoever connects to the path.
func offer(path string) (struct{}, error) {
	none := struct{}{}
	// The name is seen only once the socket listens: bind alone makes the file.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path + ".bound", Net: "unix"})
	if err != nil {
		return none, err
	}
	defer l.Close()
	if err := os.Rename(path+".bound", path); err != nil {
		return none, err
	}
	if err := l.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return none, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return none, err
	}
	c, err := l.AcceptUnix()
	if err != nil {
		return none, err
	}
	defer c.Close()
	if _, _, err := c.WriteMsgUnix([]byte{0}, unix.UnixRights(fd), nil); err != nil {
		return none, err
	}
	_, _ = c.Read(make([]byte, 1)) // until the other end is done with it
	return none, nil
}

func takeSocket(path string) (int, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return 0, err
	}
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := c.ReadMsgUnix(make([]byte, 1), control)
	if err != nil {
		return 0, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) == 0 {
		return 0, fmt.Errorf("no socket was passed: %w", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return 0, err
	}
	return fds[0], nil
}

// passSocket has a process of one pod dial with a socket that a process of
// another pod opened.
func passSocket(t *testing.T, from, to *lab.Pod, d dialing) dialed {
	t.Helper()
	return passSocketIn(t, from, from.Container, to, to.Container, d)
}

// passSocketIn is passSocket between processes in these cgroups.
func passSocketIn(t *testing.T, from *lab.Pod, fromCgroup string, to *lab.Pod, toCgroup string, d dialing) dialed {
	t.Helper()
	d.Way, d.Path = wayPassed, filepath.Join(t.TempDir(), "socket")
	offered := make(chan error, 1)
	go func() {
		_, err := lab.RunIn[string, struct{}](t.Context(), from, fromCgroup, "offer", d.Path)
		offered <- err
	}()
	eventually(t, "the socket is offered", func() bool {
		_, err := os.Stat(d.Path)
		return err == nil
	})
	got := dialIn(t, to, toCgroup, d)
	check(t, <-offered)
	return got
}
