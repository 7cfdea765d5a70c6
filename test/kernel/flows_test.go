package kernel

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/lab"
)

// TestFlowKey shows that each field of the key decides: the record of a real
// connection is found by its own key and by no neighbour of it.
func TestFlowKey(t *testing.T) {
	n := newNode(t, options{})
	p := n.pod(t, steer, lab.PodOptions{})
	id, err := lab.CgroupID(p.Container)
	check(t, err)
	own := captureConnection(t, n, p)
	for what, change := range map[string]func(*workload.Connection){
		"netns cookie + 1":       func(c *workload.Connection) { c.NetnsCookie++ },
		"no netns cookie":        func(c *workload.Connection) { c.NetnsCookie = 0 },
		"client port + 1":        func(c *workload.Connection) { c.Client = port(c.Client, 1) },
		"server port + 1":        func(c *workload.Connection) { c.Server = port(c.Server, 1) },
		"another client address": func(c *workload.Connection) { c.Client = address(c.Client, "127.0.0.2") },
		"another server address": func(c *workload.Connection) { c.Server = address(c.Server, "127.0.0.2") },
		"ends exchanged":         func(c *workload.Connection) { c.Client, c.Server = c.Server, c.Client },
	} {
		wrong := own
		change(&wrong)
		if _, err := n.hooks.Claim(wrong); !errors.Is(err, intercept.ErrNoFlow) {
			t.Errorf("%s: error %v, want ErrNoFlow", what, err)
		}
	}
	got, err := n.hooks.Claim(own)
	if err != nil || got != id {
		t.Errorf("the connection's own key: cgroup %d, error %v; want cgroup %d", got, err, id)
	}
	if _, err := n.hooks.Claim(own); !errors.Is(err, intercept.ErrNoFlow) {
		t.Errorf("a second claim: error %v, want ErrNoFlow", err)
	}
}

func port(a netip.AddrPort, by uint16) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr(), a.Port()+by)
}

func address(a netip.AddrPort, to string) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(to), a.Port())
}

// captureConnection has the pod connect, and returns the connection as
// accepted while its flow is not claimed.
func captureConnection(t *testing.T, n *node, p *lab.Pod) workload.Connection {
	t.Helper()
	accepted := make(chan workload.Connection, 1)
	n.instead.Store(func(c net.Conn, cookie uint64) {
		accepted <- workload.Connection{
			NetnsCookie: cookie,
			Client:      c.RemoteAddr().(*net.TCPAddr).AddrPort(),
			Server:      c.LocalAddr().(*net.TCPAddr).AddrPort(),
		}
		t.Cleanup(func() { c.Close() })
	})
	go dialQuietly(t, p, dialing{To: imds})
	select {
	case c := <-accepted:
		return c
	case <-time.After(10 * time.Second):
		t.Fatal("no connection arrived")
		return workload.Connection{}
	}
}

// dialQuietly is for dials that end with the test.
func dialQuietly(t *testing.T, p *lab.Pod, d dialing) {
	lab.Run[dialing, dialed](t.Context(), p, "dial", d)
}

func TestFlowEndsWithItsSocket(t *testing.T) {
	n := newNode(t, options{})
	p := n.pod(t, steer, lab.PodOptions{})
	n.instead.Store(func(c net.Conn, _ uint64) { c.Close() }) // never claimed
	for range 3 {
		dialFrom(t, p, dialing{To: imds, Silent: true, Copies: 5})
	}
	eventually(t, "no flow is left", func() bool { return n.flows(t) == 0 })
	eventually(t, "the quota is given back", func() bool {
		got := dialFrom(t, p, dialing{To: imds, Silent: true, Copies: quota})
		return got.Opened == quota
	})
}

func TestQuotaKeepsOnePodFromFillingTheMap(t *testing.T) {
	n := newNode(t, options{})
	greedy, other := n.pod(t, steer, lab.PodOptions{}), n.pod(t, steer, lab.PodOptions{})
	hold := make(chan struct{})
	n.instead.Store(func(c net.Conn, _ uint64) { <-hold; c.Close() })
	defer close(hold)
	got := dialFrom(t, greedy, dialing{To: imds, Silent: true, Copies: quota + 1})
	if got.Opened != quota || got.Errno != unix.EPERM {
		t.Errorf("%d connections opened, then %v; want %d, then EPERM", got.Opened, got.Errno, quota)
	}
	if got := dialFrom(t, other, dialing{To: imds, Silent: true}); got.Opened != 1 {
		t.Errorf("another pod was refused: %+v", got)
	}
}

func TestSecondConnectLeavesNoClaim(t *testing.T) {
	n := newNode(t, options{})
	p := n.pod(t, steer, lab.PodOptions{})
	elsewhere, err := net.Listen("tcp4", nodeListener.Addr().String()+":8080")
	check(t, err)
	defer elsewhere.Close()
	got := dialFrom(t, p, dialing{
		Before: imds, To: elsewhere.Addr().(*net.TCPAddr).AddrPort(), Silent: true,
	})
	if got.Errno != 0 || got.Peer != elsewhere.Addr().String() {
		t.Errorf("the second connect: errno %v, peer %s", got.Errno, got.Peer)
	}
	eventually(t, "no flow is left", func() bool { return n.flows(t) == 0 })
}

// TestCopiedAddress has a process copy a victim's address in a namespace of
// its own and claim the victim's connection first. With pod delivery the
// namespace in the key keeps them apart.
func TestCopiedAddress(t *testing.T) {
	n := newNode(t, options{})
	victim, attacker := n.pod(t, steer, lab.PodOptions{}), n.pod(t, steer, lab.PodOptions{})
	source := netip.MustParseAddrPort("127.0.0.1:41000")
	for _, p := range []*lab.Pod{attacker, victim} {
		if got := dialFrom(t, p, dialing{To: imds, Bind: source}); got.Answer.UID != p.UID {
			t.Errorf("%+v, want pod %s", got, p.UID)
		}
	}
}

// With node delivery the namespace is not known; two claims of one tuple are
// both refused.
func TestCopiedAddressAtTheNodeListener(t *testing.T) {
	n := newNode(t, options{nodeOnly: true})
	victim, attacker := n.pod(t, steer, lab.PodOptions{}), n.pod(t, steer, lab.PodOptions{})
	source := netip.AddrPortFrom(netip.AddrFrom4([4]byte(victim.Address)), 41000)
	check(t, attacker.AddAddress(victim.Address))
	// The answers go to the victim.
	defer begin(t, attacker, source)()
	eventually(t, "the attacker's claim", func() bool { return n.flows(t) == 1 })
	got := dialFrom(t, victim, dialing{To: imds, Bind: source})
	if got.Answer.UID != "" || got.Answer.Err == "" {
		t.Errorf("an ambiguous connection got %+v, want a refusal", got)
	}
}
