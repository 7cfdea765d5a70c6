package kernel

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/lab"
)

// lingering is a connection that a process has, and waits at.
type lingering struct {
	To     netip.AddrPort
	Mapped bool   // an AF_INET6 socket that dials ::ffff:a.b.c.d
	Begun  string // a file that is made once there is a connection, or one has begun
	Until  string // a file at which the process ends
}

// lingered is what came of it.
type lingered struct {
	Errno unix.Errno // 0: it is as it was
	Said  string     // by the other end, when asked once more
}

func init() { lab.Register("linger", linger) }

// queueFull is where connections are never accepted, and begin no more.
var queueFull = netip.MustParseAddrPort(lab.IMDS + ":81")

func linger(l lingering) (lingered, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	to := unix.Sockaddr(&unix.SockaddrInet4{Port: int(l.To.Port()), Addr: l.To.Addr().As4()})
	if l.Mapped {
		fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
		to = &unix.SockaddrInet6{Port: int(l.To.Port()), Addr: l.To.Addr().As16()}
	}
	if err != nil {
		return lingered{}, err
	}
	defer unix.Close(fd)
	if l.To == queueFull {
		err := os.WriteFile(l.Begun, nil, 0o600)
		return lingered{Errno: errnoOf(unix.Connect(fd, to))}, err
	}
	if err := unix.Connect(fd, to); err != nil {
		return lingered{}, err
	}
	buffer := make([]byte, 256)
	if _, err := unix.Read(fd, buffer); err != nil {
		return lingered{}, err
	}
	if err := os.WriteFile(l.Begun, nil, 0o600); err != nil {
		return lingered{}, err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000}); err != nil {
		return lingered{}, err
	}
	for !exists(l.Until) {
		// Go's runtime interrupts reads that have a timeout.
		if _, err := unix.Read(fd, buffer); !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return lingered{Errno: errnoOf(err)}, nil
		}
	}
	if _, err := unix.Write(fd, []byte("again\n")); err != nil {
		return lingered{Errno: errnoOf(err)}, nil
	}
	n, err := -1, error(unix.EAGAIN)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end) && (errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)); {
		n, err = unix.Read(fd, buffer)
	}
	return lingered{Errno: errnoOf(err), Said: string(buffer[:max(0, n)])}, nil
}

func errnoOf(err error) (e unix.Errno) {
	errors.As(err, &e)
	return e
}

// linger has a process of the pod connect, and returns once it has. What came of
// it is had by end, at the latest after the file until is there.
func (n *node) linger(t *testing.T, p *lab.Pod, cgroup string, l lingering) (end <-chan lingered) {
	t.Helper()
	if l.To == (netip.AddrPort{}) {
		l.To = imds
	}
	l.Begun = filepath.Join(t.TempDir(), "begun")
	done := make(chan lingered, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
		defer cancel()
		got, err := lab.RunIn[lingering, lingered](ctx, p, cgroup, "linger", l)
		if err != nil {
			t.Error(err)
		}
		done <- got
	}()
	eventually(t, "a connection", func() bool { return exists(l.Begun) })
	return done
}

// wantAborted waits until the application sees an error, which is at once.
func wantAborted(t *testing.T, what string, end <-chan lingered) {
	t.Helper()
	select {
	case got := <-end:
		if got.Errno != unix.ECONNABORTED {
			t.Errorf("%s ended with %v, want %v", what, got, unix.ECONNABORTED)
		}
	case <-time.After(10 * time.Second):
		t.Errorf("%s: no error after 10 s", what)
	}
}

func wantKept(t *testing.T, what string, end <-chan lingered) {
	t.Helper()
	if got := <-end; got.Errno != 0 || got.Said == "" {
		t.Errorf("%s ended: %+v", what, got)
	}
}

// What leads to the metadata service ends with an error at once when its pod may
// not go there any more, with and without a guard that drops its packets.
func TestConnectionsOfClosedPodsAreAborted(t *testing.T) {
	for name, guard := range map[string]guardMode{"guard full": guardFull, "guard off": guardOff} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, options{guard: guard})
			n.delivery.SetEnforced(true)
			n.fillQueue(t)
			until := filepath.Join(t.TempDir(), "until")
			p, other := n.pod(t, pass, lab.PodOptions{}), n.pod(t, pass, lab.PodOptions{})
			deleted := n.pod(t, pass, lab.PodOptions{})
			host, otherHost := n.pod(t, pass, lab.PodOptions{HostNetwork: true}), n.pod(t, pass, lab.PodOptions{HostNetwork: true})
			ends := map[string]<-chan lingered{
				"a connection":               n.linger(t, p, p.Container, lingering{Until: until}),
				"an IPv4-mapped one":         n.linger(t, p, p.Container, lingering{Until: until, Mapped: true}),
				"a connect() that waits":     n.linger(t, p, p.Container, lingering{Until: until, To: queueFull}),
				"that of a deleted pod":      n.linger(t, deleted, deleted.Container, lingering{Until: until}),
				"that of a host network pod": n.linger(t, host, host.Container, lingering{Until: until}),
			}
			kept := map[string]<-chan lingered{
				"another pod's":              n.linger(t, other, other.Container, lingering{Until: until}),
				"another host network pod's": n.linger(t, otherHost, otherHost.Container, lingering{Until: until}),
				"a process's of the node":    n.linger(t, otherHost, lab.OwnCgroup(), lingering{Until: until}),
			}
			n.pods.set(workload.Pod{UID: p.UID, Decision: steer})
			n.pods.set(workload.Pod{UID: host.UID, HostNetwork: true, Decision: deny})
			n.pods.remove(deleted.UID)
			for what, end := range ends {
				wantAborted(t, what, end)
			}
			time.Sleep(1500 * time.Millisecond) // pods that were closed off are looked at twice
			check(t, os.WriteFile(until, nil, 0o600))
			for what, end := range kept {
				wantKept(t, what, end)
			}
		})
	}
}

// A connection that a container left to another of its pod is the pod's still:
// its socket bears a cgroup that is gone.
func TestConnectionsOfEndedContainersAreAborted(t *testing.T) {
	n := newNode(t, options{guard: guardOff})
	n.delivery.SetEnforced(true)
	p := n.pod(t, pass, lab.PodOptions{HostNetwork: true})
	ended := filepath.Join(p.Cgroup, strings.Repeat("e", len(p.ContainerID)))
	check(t, os.Mkdir(ended, 0o755))
	n.pods.set(workload.Pod{UID: p.UID, HostNetwork: true, Decision: pass, Containers: map[string]workload.Decision{filepath.Base(ended): pass}})
	n.settled(t, ended, workload.Pass)
	end := n.linger(t, p, ended, lingering{Until: filepath.Join(t.TempDir(), "never")})
	processes, err := os.ReadFile(filepath.Join(ended, "cgroup.procs"))
	check(t, err)
	for process := range strings.FieldsSeq(string(processes)) {
		check(t, os.WriteFile(filepath.Join(p.Container, "cgroup.procs"), []byte(process), 0o600))
	}
	check(t, os.Remove(ended))
	n.pods.set(workload.Pod{UID: p.UID, HostNetwork: true, Decision: deny})
	wantAborted(t, "an ended container's", end)
}

// A container that passes keeps its connections when its pod is closed off.
func TestConnectionsOfContainersThatPassAreKept(t *testing.T) {
	n := newNode(t, options{})
	n.delivery.SetEnforced(true)
	until := filepath.Join(t.TempDir(), "until")
	p := n.pod(t, pass, lab.PodOptions{})
	closed := n.linger(t, p, p.Container, lingering{Until: until})
	kept := n.linger(t, p, p.Sandbox, lingering{Until: until})
	n.pods.set(workload.Pod{UID: p.UID, Decision: steer, Containers: map[string]workload.Decision{
		p.ContainerID: steer, filepath.Base(p.Sandbox): pass,
	}})
	wantAborted(t, "the steered container's", closed)
	time.Sleep(1500 * time.Millisecond)
	check(t, os.WriteFile(until, nil, 0o600))
	wantKept(t, "the passing container's", kept)
}

// In audit mode nothing ends, and all of it does with the change to enforce.
func TestConnectionsEndWithAudit(t *testing.T) {
	n := newNode(t, options{})
	until := filepath.Join(t.TempDir(), "until")
	p := n.pod(t, pass, lab.PodOptions{})
	end := n.linger(t, p, p.Container, lingering{Until: until})
	n.pods.set(workload.Pod{UID: p.UID, Decision: steer})
	n.settled(t, p.Cgroup, workload.Steer)
	select {
	case got := <-end:
		t.Fatalf("ended while nothing is known to be enforced: %+v", got)
	case <-time.After(500 * time.Millisecond):
	}
	n.delivery.SetEnforced(true)
	wantAborted(t, "a connection of before", end)
}

// fillQueue has a listener at queueFull that accepts nothing, and its queue
// full.
func (n *node) fillQueue(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	t.Cleanup(func() { check(t, unix.Close(fd)) })
	check(t, unix.Bind(fd, &unix.SockaddrInet4{Port: int(queueFull.Port()), Addr: queueFull.Addr().As4()}))
	check(t, unix.Listen(fd, 0))
	c, err := net.Dial("tcp4", queueFull.String())
	check(t, err)
	t.Cleanup(func() { c.Close() })
}
