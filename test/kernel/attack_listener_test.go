package kernel

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/test/lab"
)

func init() { lab.Register("sit", sit) }

const refusedThenServed = "refused (EPERM), then own identity"

// listenerAttacks reach for a listener without being steered to it, or sit in
// for it.
func listenerAttacks() []attack {
	return []attack{
		{
			name: "direct dial from a pod", expected: allGuards(eperm),
			defence: "direct dials", success: held, run: directDials,
		},
		{
			name: "listener's port, agent alive", expected: always("not to be had"),
			defence: "one socket a port", success: "bound", run: portOfLiveAgent,
		},
		{
			name: "listener's port in the pod, agent dead, then back", expected: always(refusedThenServed),
			defence: "listener's tag", success: impostor,
			run: func(t *testing.T, _ guardMode) string { return portOfDeadAgent(t, lab.PodOptions{}) },
		},
		{
			name: "listener's port on the node, agent dead, then back", expected: always(refusedThenServed),
			defence: "listener's tag", success: impostor,
			run: func(t *testing.T, _ guardMode) string {
				return portOfDeadAgent(t, lab.PodOptions{HostNetwork: true})
			},
		},
		{
			name: "node listener's port, agent dead", expected: always("refused (ECONNREFUSED)"),
			defence: "bind hooks", success: impostor, run: nodePortOfDeadAgent,
		},
	}
}

func directDials(t *testing.T, guard guardMode) string {
	n := newNode(t, options{guard: guard})
	p := n.pod(t, steer, lab.PodOptions{})
	host := n.pod(t, steer, lab.PodOptions{HostNetwork: true})
	other := n.pod(t, pass, lab.PodOptions{HostNetwork: true})
	own, hosts := listenerOf(t, n, p), listenerOf(t, n, host)
	any4 := netip.AddrPortFrom(netip.IPv4Unspecified(), own.Port())
	return worst(eperm,
		seenBy(p, dialFrom(t, p, dialing{To: own})),
		seenBy(p, dialFrom(t, p, dialing{To: own, Mapped: true})),
		seenBy(p, dialFrom(t, p, dialing{To: any4})),
		seenBy(p, dialFrom(t, p, dialing{To: any4, Mapped: true})),
		seenBy(p, dialFrom(t, p, dialing{To: nodeListener})),
		seenBy(other, dialFrom(t, other, dialing{To: hosts})),
	)
}

// sitting is where a process listens in the agent's place.
type sitting struct {
	At        netip.AddrPort
	Any       bool // on every address
	Mapped    bool // by an IPv6 socket
	ReusePort bool
	Path      string // a file to make once it listens
}

// sit listens, and answers as an impostor until it is killed. It says how far
// it came.
func sit(s sitting) (string, error) {
	family := unix.AF_INET
	if s.Mapped {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return "", err
	}
	for option, on := range map[int]bool{unix.SO_REUSEADDR: true, unix.SO_REUSEPORT: s.ReusePort} {
		if on {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1); err != nil {
				return "", err
			}
		}
	}
	if err := unix.Bind(fd, s.address()); err != nil {
		return "bind: " + unix.ErrnoName(errno(err)), nil
	}
	if err := unix.Listen(fd, 8); err != nil {
		return "listen: " + unix.ErrnoName(errno(err)), nil
	}
	if err := os.WriteFile(s.Path, nil, 0o600); err != nil {
		return "", err
	}
	for {
		c, _, err := unix.Accept(fd)
		if err != nil {
			return "", err
		}
		if _, err := unix.Write(c, []byte(`{"UID":"impostor"}`+"\n")); err != nil {
			return "", err
		}
		unix.Close(c)
	}
}

// sits has a process of the pod sit in until the test ends, and returns what
// stopped it; empty if it listens.
func sits(t *testing.T, p *lab.Pod, s sitting) string {
	t.Helper()
	s.Path = filepath.Join(t.TempDir(), "listens")
	ended := make(chan string, 1)
	go func() {
		why, err := lab.Run[sitting, string](t.Context(), p, "sit", s)
		if err != nil {
			why = err.Error()
		}
		ended <- why
	}()
	why := ""
	eventually(t, "a process sits in or fails", func() bool {
		select {
		case why = <-ended:
			return true
		default:
		}
		_, err := os.Stat(s.Path)
		return err == nil
	})
	return why
}

func (s sitting) address() unix.Sockaddr {
	var any4 [4]byte
	a := &unix.SockaddrInet4{Port: int(s.At.Port()), Addr: s.At.Addr().As4()}
	if s.Any {
		a.Addr = any4
	}
	if !s.Mapped {
		return a
	}
	six := &unix.SockaddrInet6{Port: a.Port}
	if !s.Any {
		six.Addr = s.At.Addr().As16()
	}
	return six
}

func portOfLiveAgent(t *testing.T, _ guardMode) string {
	n := newNode(t, options{})
	p := n.pod(t, steer, lab.PodOptions{})
	host := n.pod(t, steer, lab.PodOptions{HostNetwork: true})
	other := n.pod(t, pass, lab.PodOptions{HostNetwork: true})
	for _, try := range []struct {
		pod *lab.Pod
		at  netip.AddrPort
	}{{p, listenerOf(t, n, p)}, {other, listenerOf(t, n, host)}, {other, nodeListener}} {
		for _, s := range []sitting{
			{At: try.at}, {At: try.at, ReusePort: true}, {At: try.at, Any: true}, {At: try.at, Any: true, Mapped: true},
		} {
			if sits(t, try.pod, s) == "" {
				return "bound"
			}
		}
	}
	return "not to be had"
}

func portOfDeadAgent(t *testing.T, o lab.PodOptions) string {
	n := newNode(t, options{})
	victim, other := n.pod(t, steer, o), n.pod(t, pass, o)
	at := listenerOf(t, n, victim)
	if !o.HostNetwork {
		other = victim
	}
	n.stop()
	if failed := sits(t, other, sitting{At: at}); failed != "" {
		return failed
	}
	if got := seenBy(victim, dialFrom(t, victim, dialing{To: imds})); got != eperm {
		return got
	}
	n.startAgain(t)
	eventually(t, "the pod has a listener elsewhere", func() bool {
		return listenerOf(t, n, victim).Port() != at.Port()
	})
	if got := seenBy(victim, dialFrom(t, victim, dialing{To: imds})); got != ownIdentity {
		return got
	}
	return refusedThenServed
}

// nodePortOfDeadAgent is about a pod that no agent knows: it is steered to the
// node listener, and from its namespace it cannot be seen who listens there.
func nodePortOfDeadAgent(t *testing.T, _ guardMode) string {
	n := newNode(t, options{})
	other := n.pod(t, pass, lab.PodOptions{HostNetwork: true})
	victim := n.stranger(t, lab.PodOptions{})
	n.stop()
	bound := "bind: EPERM"
	for _, s := range []sitting{
		{At: nodeListener}, {At: nodeListener, Any: true}, {At: nodeListener, Mapped: true},
		{At: nodeListener, Any: true, Mapped: true},
	} {
		if sat := sits(t, other, s); sat != bound {
			return worst("", sat, seenBy(victim, dialFrom(t, victim, dialing{To: imds})))
		}
	}
	return seenBy(victim, dialFrom(t, victim, dialing{To: imds}))
}
