package kernel

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/lab"
)

// refused fails the test unless the dialing ends with EPERM.
func refused(t *testing.T, what string, got dialed) {
	t.Helper()
	if got.Errno != unix.EPERM {
		t.Errorf("%s: errno %v, answer %+v; want EPERM", what, got.Errno, got.Answer)
	}
}

func TestDirectDialsAreRefused(t *testing.T) {
	n := newNode(t, options{})
	p := n.pod(t, steer, lab.PodOptions{})
	host := n.pod(t, steer, lab.PodOptions{HostNetwork: true})
	other := n.pod(t, pass, lab.PodOptions{HostNetwork: true})
	own := listenerOf(t, n, p)
	hosts := listenerOf(t, n, host)
	any4 := netip.AddrPortFrom(netip.IPv4Unspecified(), own.Port())
	refused(t, "own listener", dialFrom(t, p, dialing{To: own}))
	refused(t, "own listener, mapped", dialFrom(t, p, dialing{To: own, Mapped: true}))
	refused(t, "own listener by 0.0.0.0", dialFrom(t, p, dialing{To: any4}))
	refused(t, "own listener by ::ffff:0.0.0.0", dialFrom(t, p, dialing{To: any4, Mapped: true}))
	refused(t, "node listener", dialFrom(t, p, dialing{To: nodeListener}))
	refused(t, "another host-network pod's listener", dialFrom(t, other, dialing{To: hosts}))
}

func listenerOf(t *testing.T, n *node, p *lab.Pod) netip.AddrPort {
	t.Helper()
	e := n.settled(t, p.Cgroup, workload.Steer)
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), e.Port)
}

func TestHostProcessDialsListener(t *testing.T) {
	n := newNode(t, options{})
	host := n.pod(t, steer, lab.PodOptions{HostNetwork: true})
	// This process is outside of kubepods: no hook sees it, and the broker
	// must not believe it.
	got, err := dial(dialing{To: listenerOf(t, n, host)})
	check(t, err)
	if got.Answer.UID != "" || !strings.Contains(got.Answer.Err, "no flow record") {
		t.Errorf("a host process got %+v, want a refusal for lack of a flow record", got.Answer)
	}
}

func TestSocketBoundToDeviceIsRefused(t *testing.T) {
	n := newNode(t, options{})
	p := n.pod(t, steer, lab.PodOptions{})
	refused(t, "bound to lo", dialFrom(t, p, dialing{To: imds, Device: "lo"}))
	refused(t, "bound to eth0", dialFrom(t, p, dialing{To: imds, Device: "eth0"}))
}

func TestDeadAgentMeansRefused(t *testing.T) {
	n := newNode(t, options{})
	p, host := n.pod(t, steer, lab.PodOptions{}), n.pod(t, steer, lab.PodOptions{HostNetwork: true})
	passing, stranger := n.pod(t, pass, lab.PodOptions{}), n.stranger(t, lab.PodOptions{})
	n.stop()
	refused(t, "steered pod", dialFrom(t, p, dialing{To: imds}))
	refused(t, "steered pod, mapped", dialFrom(t, p, dialing{To: imds, Mapped: true}))
	refused(t, "steered host-network pod", dialFrom(t, host, dialing{To: imds}))
	if got := dialFrom(t, stranger, dialing{To: imds}); got.Errno != unix.ECONNREFUSED {
		t.Errorf("unknown pod: %+v, want ECONNREFUSED", got)
	}
	if got := dialFrom(t, passing, dialing{To: imds}); got.Answer.UID != "imds" {
		t.Errorf("a pod that passes got %+v", got)
	}
}

func TestNobodySitsInForTheListener(t *testing.T) {
	n := newNode(t, options{})
	victim := n.pod(t, steer, lab.PodOptions{HostNetwork: true})
	at := listenerOf(t, n, victim)
	n.stop()
	impostor, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	check(t, err)
	defer unix.Close(impostor)
	check(t, unix.Bind(impostor, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}))
	check(t, unix.Listen(impostor, 1))
	refused(t, "a stranger listens", dialFrom(t, victim, dialing{To: imds}))
}

func TestNestedNamespaceNeverReachesTheMetadataService(t *testing.T) {
	n := newNode(t, options{})
	p := n.pod(t, steer, lab.PodOptions{})
	got := dialFrom(t, p, dialing{To: imds, NewNetns: true})
	if got.Errno != unix.ENETUNREACH {
		t.Errorf("%+v, want ENETUNREACH on the way to the node listener", got)
	}
}

func TestUnknownPolicies(t *testing.T) {
	n := newNode(t, options{settings: func(s *intercept.Settings) { s.UnknownHostNetworkPass = true }})
	p, host := n.stranger(t, lab.PodOptions{}), n.stranger(t, lab.PodOptions{HostNetwork: true})
	dialsAs := func(p *lab.Pod, want string) {
		t.Helper()
		if got := dialFrom(t, p, dialing{To: imds}); got.Answer.UID != want {
			t.Errorf("%+v, want %q", got, want)
		}
	}
	dialsAs(host, "imds")
	dialsAs(p, "")
	n.settings.UnknownHostNetworkPass, n.settings.UnknownPass = false, true
	check(t, n.hooks.Configure(n.settings))
	dialsAs(host, "")
	dialsAs(p, "imds")
	// What is known to be not decided yet is held all the same.
	n.pods.set(workload.Pod{UID: p.UID, Decision: workload.Decision{Verdict: workload.Unknown}})
	n.settled(t, p.Cgroup, workload.Unknown)
	dialsAs(p, "")
}

func TestAuditLetsPassAndCounts(t *testing.T) {
	n := newNode(t, options{settings: func(s *intercept.Settings) { s.Audit = true }})
	steered, denied := n.pod(t, steer, lab.PodOptions{}), n.pod(t, deny, lab.PodOptions{})
	for _, p := range []*lab.Pod{steered, denied} {
		if got := dialFrom(t, p, dialing{To: imds}); got.Answer.UID != "imds" || got.Peer != imds.String() {
			t.Errorf("in audit mode: %+v", got)
		}
	}
	if steer, deny := counted(t, n, "steer", "ipv4"), counted(t, n, "deny", "ipv4"); steer != 1 || deny != 1 {
		t.Errorf("counted %d steered and %d denied, want 1 and 1", steer, deny)
	}
}

func counted(t *testing.T, n *node, verdict, family string) uint64 {
	t.Helper()
	all, err := n.hooks.Connects()
	check(t, err)
	for _, c := range all {
		if c.Verdict == verdict && c.Family == family {
			return c.Count
		}
	}
	t.Fatalf("no counter for %s, %s", verdict, family)
	return 0
}

func TestCounters(t *testing.T) {
	n := newNode(t, options{})
	steered, passing := n.pod(t, steer, lab.PodOptions{}), n.pod(t, pass, lab.PodOptions{})
	dialFrom(t, steered, dialing{To: imds})
	dialFrom(t, steered, dialing{To: imds, Mapped: true})
	dialFrom(t, passing, dialing{To: imds})
	dialFrom(t, n.pod(t, deny, lab.PodOptions{}), dialing{To: imds})
	dialFrom(t, n.stranger(t, lab.PodOptions{}), dialing{To: imds})
	dialFrom(t, steered, dialing{To: imds, Device: "lo"})
	for _, want := range []intercept.Connects{
		{Verdict: "steer", Family: "ipv4", Count: 1}, {Verdict: "steer", Family: "ipv6", Count: 1},
		{Verdict: "pass", Family: "ipv4", Count: 1}, {Verdict: "deny", Family: "ipv4", Count: 1},
		{Verdict: "unknown", Family: "ipv4", Count: 1}, {Verdict: "refused", Family: "ipv4", Count: 1},
	} {
		if got := counted(t, n, want.Verdict, want.Family); got != want.Count {
			t.Errorf("%s %s: counted %d, want %d", want.Verdict, want.Family, got, want.Count)
		}
	}
}
