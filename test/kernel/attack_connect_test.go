package kernel

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/test/lab"
)

// connectAttacks try each way to connect that a hook on connect() might miss.
// Behind the hook stands the guard, so both are removed for the proof.
func connectAttacks() []attack {
	var all []attack
	for _, way := range []struct {
		name string
		dialing
	}{
		{"connect", dialing{To: imds}},
		{"connect, IPv4-mapped", dialing{To: imds, Mapped: true}},
		{"connect, non-blocking", dialing{To: imds, Nonblock: true}},
		{"connect, MPTCP", dialing{To: imds, Way: wayMPTCP}},
		{"TFO, sendto", dialing{To: imds, Way: wayFastOpen}},
		{"TFO, connect", dialing{To: imds, Way: wayFastOpenConnect}},
		{"io_uring", dialing{To: imds, Way: wayIOUring}},
		{"io_uring, worker thread", dialing{To: imds, Way: wayIOUringAsync}},
		{"connect, bound to an address", dialing{To: imds, BindToEth: true}},
		{"connect, after another target", dialing{To: imds, Before: nodeListenerOther}},
		{"inherited socket", dialing{To: imds, Way: wayInherited}},
	} {
		all = append(all, attack{
			name: way.name, expected: allGuards(ownIdentity),
			defence: "connect hooks", success: nodeIdentity, without: guardOff,
			run: func(t *testing.T, guard guardMode) string { return connectOnce(t, guard, way.dialing) },
		})
	}
	return append(all,
		attack{
			name: "socket passed from another pod", expected: allGuards(ownIdentity),
			defence: "connect hooks", success: nodeIdentity, without: guardOff,
			run: passedSocket,
		},
		attack{
			name:     "own socket, connected by a pod that passes",
			expected: map[guardMode]string{guardFull: dropped, guardSocket: dropped, guardOff: nodeIdentity},
			run:      lentSocket,
		},
		attack{
			name: "network namespace of another pod", expected: allGuards(ownIdentity),
			defence: "connect hooks", success: nodeIdentity, without: guardOff,
			run: otherNamespace,
		},
		attack{
			name: "second connect on one socket", expected: always("the true peer"),
			defence: "the claim's destination", success: "A FALSE PEER",
			run: secondConnect,
		},
	)
}

func allGuards(seen string) map[guardMode]string {
	return map[guardMode]string{guardFull: seen, guardSocket: seen, guardOff: seen}
}

func connectOnce(t *testing.T, guard guardMode, d dialing) string {
	n := newNode(t, options{guard: guard})
	p := n.pod(t, steer, lab.PodOptions{})
	if d.Before.IsValid() {
		n.listenElsewhere(t)
	}
	if d.BindToEth {
		d.Bind = addrPort(p.Address, 0)
	}
	return seenBy(p, dialFrom(t, p, d))
}

// passedSocket has a pod that passes open a socket and hand it to a steered
// one, whose process connects it.
func passedSocket(t *testing.T, guard guardMode) string {
	n := newNode(t, options{guard: guard})
	p, other := n.pod(t, steer, lab.PodOptions{}), n.pod(t, pass, lab.PodOptions{})
	return seenBy(p, passSocket(t, other, p, dialing{To: imds}))
}

// lentSocket is the other way round: what the pod that passes connects is the
// steered pod's to use.
func lentSocket(t *testing.T, guard guardMode) string {
	n := newNode(t, options{guard: guard})
	p, other := n.pod(t, steer, lab.PodOptions{}), n.pod(t, pass, lab.PodOptions{})
	return seenBy(p, passSocket(t, p, other, dialing{To: imds, Impatient: true}))
}

// otherNamespace has a process of the steered pod enter the namespace of one
// that passes, as a nested namespace with a way out would be.
func otherNamespace(t *testing.T, guard guardMode) string {
	n := newNode(t, options{guard: guard})
	p, other := n.pod(t, steer, lab.PodOptions{}), n.pod(t, pass, lab.PodOptions{})
	return seenBy(p, dialIn(t, other, p.Container, dialing{To: imds}))
}

// secondConnect leads a socket elsewhere after it was steered: neither a flow
// nor the metadata service's name may stay with it.
func secondConnect(t *testing.T, guard guardMode) string {
	n := newNode(t, options{guard: guard})
	p := n.pod(t, steer, lab.PodOptions{})
	n.listenElsewhere(t)
	got := dialFrom(t, p, dialing{Before: imds, To: nodeListenerOther, Silent: true})
	if got.Errno != 0 {
		return unix.ErrnoName(got.Errno)
	}
	if got.Peer != nodeListenerOther.String() {
		return "A FALSE PEER"
	}
	return "the true peer"
}
