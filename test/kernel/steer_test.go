package kernel

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/lab"
)

var (
	steer = workload.Decision{Verdict: workload.Steer, Access: workload.Identity}
	pass  = workload.Decision{Verdict: workload.Pass}
	deny  = workload.Decision{Verdict: workload.Deny}
)

// ways are the ways to dial the metadata service that must all end alike.
var ways = map[string]dialing{
	"IPv4":         {To: imds},
	"IPv4-mapped":  {To: imds, Mapped: true},
	"non-blocking": {To: imds, Nonblock: true},
}

func TestSteeredPodsAreToldApart(t *testing.T) {
	n := newNode(t, options{})
	pods := map[string]*lab.Pod{
		"burstable":      n.pod(t, steer, lab.PodOptions{}),
		"guaranteed":     n.pod(t, steer, lab.PodOptions{QoS: "guaranteed"}),
		"host network":   n.pod(t, steer, lab.PodOptions{HostNetwork: true}),
		"host network 2": n.pod(t, steer, lab.PodOptions{HostNetwork: true}),
	}
	for kind, p := range pods {
		for way, d := range ways {
			t.Run(kind+"/"+way, func(t *testing.T) {
				got := dialFrom(t, p, d)
				if got.Errno != 0 || got.Answer.Err != "" {
					t.Fatalf("errno %v, answer %+v", got.Errno, got.Answer)
				}
				if got.Answer.UID != p.UID {
					t.Errorf("attested to pod %q, want %q", got.Answer.UID, p.UID)
				}
			})
		}
	}
}

func TestPeerNameIsTheMetadataService(t *testing.T) {
	n := newNode(t, options{})
	p := n.pod(t, steer, lab.PodOptions{})
	if got := dialFrom(t, p, dialing{To: imds}); got.Peer != "169.254.169.254:80" {
		t.Errorf("getpeername says %s", got.Peer)
	}
	if got := dialFrom(t, p, dialing{To: imds, Mapped: true}); got.Peer != "[::ffff:169.254.169.254]:80" {
		t.Errorf("getpeername says %s", got.Peer)
	}
}

func TestPassAndDeny(t *testing.T) {
	n := newNode(t, options{})
	passing, denied := n.pod(t, pass, lab.PodOptions{}), n.pod(t, deny, lab.PodOptions{})
	for way, d := range ways {
		t.Run(way, func(t *testing.T) {
			if got := dialFrom(t, passing, d); got.Answer.UID != "imds" {
				t.Errorf("a pod that passes got %+v, want the metadata service", got)
			}
			if got := dialFrom(t, denied, d); got.Errno != unix.EPERM {
				t.Errorf("a denied pod got %+v, want EPERM", got)
			}
		})
	}
}

func TestNodeDelivery(t *testing.T) {
	n := newNode(t, options{nodeOnly: true})
	for range 2 {
		p := n.pod(t, steer, lab.PodOptions{})
		for way, d := range ways {
			if got := dialFrom(t, p, d); got.Answer.UID != p.UID {
				t.Errorf("%s: %+v, want pod %s", way, got, p.UID)
			}
		}
	}
}

func TestUnknownPodIsHeldUntilKnown(t *testing.T) {
	n := newNode(t, options{})
	p := n.stranger(t, lab.PodOptions{})
	if got := dialFrom(t, p, dialing{To: imds}); got.Answer.UID != "" || got.Answer.Err == "" {
		t.Errorf("an unknown pod got %+v, want a refusal", got)
	}
	n.pods.set(workload.Pod{UID: p.UID, Decision: steer})
	n.settled(t, p.Cgroup, workload.Steer)
	if got := dialFrom(t, p, dialing{To: imds}); got.Answer.UID != p.UID {
		t.Errorf("once known, it got %+v", got)
	}
}

func TestDeletedPodWhoseProcessLivesOn(t *testing.T) {
	n := newNode(t, options{})
	p := n.pod(t, steer, lab.PodOptions{})
	n.pods.remove(p.UID)
	n.settled(t, p.Cgroup, workload.Unknown)
	if got := dialFrom(t, p, dialing{To: imds}); got.Answer.UID != "" {
		t.Errorf("a deleted pod was attested: %+v", got)
	}
}

func TestVerdictOfOneContainer(t *testing.T) {
	n := newNode(t, options{})
	p := n.stranger(t, lab.PodOptions{})
	n.pods.set(workload.Pod{
		UID: p.UID, Decision: workload.Decision{Verdict: workload.Unknown},
		Containers: map[string]workload.Decision{p.ContainerID: steer},
	})
	n.settled(t, p.Container, workload.Steer)
	if got := dialFrom(t, p, dialing{To: imds}); got.Answer.UID != p.UID || got.Answer.Container != p.ContainerID {
		t.Errorf("the steered container got %+v", got)
	}
	if got := dialIn(t, p, p.Sandbox, dialing{To: imds}); got.Answer.UID != "" {
		t.Errorf("a container that is not known yet got %+v, want a refusal", got)
	}
	n.pods.set(workload.Pod{
		UID: p.UID, Decision: steer,
		Containers: map[string]workload.Decision{p.ContainerID: pass},
	})
	n.settled(t, p.Container, workload.Pass)
	if got := dialFrom(t, p, dialing{To: imds}); got.Answer.UID != "imds" {
		t.Errorf("the skipped container got %+v, want the metadata service", got)
	}
}

func TestOnlyTCPToThatPortIsTouched(t *testing.T) {
	n := newNode(t, options{guard: guardOff}) // which drops by the address alone
	p := n.pod(t, steer, lab.PodOptions{})
	before, err := n.hooks.Connects()
	check(t, err)
	for _, d := range []dialing{
		{To: imds, UDP: true},
		{To: netip.AddrPortFrom(imds.Addr(), 53), UDP: true},
		{To: netip.AddrPortFrom(imds.Addr(), 81)},
	} {
		got := dialFrom(t, p, d)
		if d.UDP && got.Peer != d.To.String() {
			t.Errorf("%+v: peer %s", d, got.Peer)
		}
		if !d.UDP && got.Errno != unix.ECONNREFUSED {
			t.Errorf("%+v: errno %v, want ECONNREFUSED by the node itself", d, got.Errno)
		}
	}
	after, err := n.hooks.Connects()
	check(t, err)
	for i := range after {
		if after[i] != before[i] {
			t.Errorf("counted: %+v", after[i])
		}
	}
}
