package kernel

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
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

// Two containers of one pod and one verdict are told apart, each by the task that
// calls connect(): in cgroups of its own making it is the container's, and a
// socket of another container speaks for it. A task in none of them is nobody's.
func TestContainersOfOnePodAreToldApart(t *testing.T) {
	for delivery, o := range map[string]options{"pod": {}, "node": {nodeOnly: true}} {
		t.Run(delivery, func(t *testing.T) {
			n := newNode(t, o)
			for kind, pod := range map[string]lab.PodOptions{
				"burstable": {}, "guaranteed": {QoS: "guaranteed"}, "host network": {HostNetwork: true},
			} {
				t.Run(kind, func(t *testing.T) { n.tellContainersApart(t, pod) })
			}
		})
	}
}

func (n *node) tellContainersApart(t *testing.T, o lab.PodOptions) {
	p := n.pod(t, steer, o)
	other := filepath.Join(p.Cgroup, otherContainer)
	nested := filepath.Join(other, "app", "worker")
	check(t, os.MkdirAll(nested, 0o755))
	for caller, tt := range map[string]struct {
		got  dialed
		want string
	}{
		"one":              {dialFrom(t, p, dialing{To: imds}), p.ContainerID},
		"one, IPv4-mapped": {dialFrom(t, p, dialing{To: imds, Mapped: true}), p.ContainerID},
		"another":          {dialIn(t, p, other, dialing{To: imds}), otherContainer},
		"below another":    {dialIn(t, p, nested, dialing{To: imds}), otherContainer},
		"in none":          {dialIn(t, p, p.Cgroup, dialing{To: imds}), ""},
		"one, by a socket of another": {
			passSocketIn(t, p, other, p, p.Container, dialing{To: imds}), p.ContainerID,
		},
		"another, by a socket of one": {
			passSocketIn(t, p, p.Container, p, other, dialing{To: imds}), otherContainer,
		},
	} {
		if a := tt.got.Answer; a.Err != "" || a.UID != p.UID || a.Container != tt.want {
			t.Errorf("%s: %+v, want container %q", caller, tt.got, tt.want)
		}
	}
}

var otherContainer = strings.Repeat("0d", 32)

// A cgroup that a container has made and removed meanwhile ends nothing.
func TestContainersOwnCgroupMayEnd(t *testing.T) {
	n := newNode(t, options{})
	p := n.pod(t, steer, lab.PodOptions{QoS: "guaranteed"})
	nested := filepath.Join(p.Container, "worker")
	check(t, os.Mkdir(nested, 0o755))
	n.instead.Store(func(c net.Conn, cookie uint64) {
		n.answerAfter(c, cookie, func() {
			if err := errors.Join(moveAll(nested, p.Container), os.Remove(nested)); err != nil {
				t.Error(err)
			}
		})
	})
	if got := dialIn(t, p, nested, dialing{To: imds}); got.Answer.Err != "" || got.Answer.Container != p.ContainerID {
		t.Errorf("%+v, want container %s", got, p.ContainerID)
	}
}

// A container that has ended is nobody any more, whoever has its connection.
func TestConnectionOfAnEndedContainer(t *testing.T) {
	n := newNode(t, options{})
	p := n.pod(t, steer, lab.PodOptions{})
	other := filepath.Join(p.Cgroup, otherContainer)
	check(t, os.Mkdir(other, 0o755))
	n.instead.Store(func(c net.Conn, cookie uint64) {
		n.answerAfter(c, cookie, func() {
			if err := errors.Join(moveAll(other, p.Container), os.Remove(other)); err != nil {
				t.Error(err)
			}
		})
	})
	if got := dialIn(t, p, other, dialing{To: imds}); got.Answer.Err == "" || got.Answer.UID != "" {
		t.Errorf("%+v, want a refusal", got)
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
