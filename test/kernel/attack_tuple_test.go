package kernel

import (
	"net"
	"net/netip"
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/test/lab"
)

// tupleAttacks claim, copy or keep the addresses of another pod's connection.
func tupleAttacks() []attack {
	return []attack{
		{
			name: "copied IP address, pod delivery", expected: always(ownIdentity),
			defence: "netns in the flow's key", success: held, run: copiedAddress,
		},
		{
			name: "copied IP address, node delivery", expected: always(held),
			defence: "ambiguous flows", success: otherIdentity, run: copiedAddressAtNode,
		},
		{
			name: "source port used again", expected: always(held),
			defence: "flows end with their socket", success: ownIdentity, run: reusedPort,
		},
		{
			name: "socket bound to a device", expected: always(eperm),
			defence: "bound sockets", success: "the victim is refused", run: boundToDevice,
		},
	}
}

var source = netip.MustParseAddrPort("127.0.0.1:41000")

// copiedAddress has an attacker open the same connection in its own namespace
// first, and keep it. Both pods' listeners have the same port.
func copiedAddress(t *testing.T, _ guardMode) string {
	n := newNode(t, options{ports: delivery.PortRange{First: 28000, Last: 28000}})
	victim, attacker := n.pod(t, steer, lab.PodOptions{}), n.pod(t, steer, lab.PodOptions{})
	release := n.keepFirst()
	defer release()
	go dialQuietly(t, attacker, dialing{To: imds, Bind: source})
	eventually(t, "the attacker's claim", func() bool { return n.flows(t) == 1 })
	return seenBy(victim, dialFrom(t, victim, dialing{To: imds, Bind: source}))
}

// copiedAddressAtNode is the same where all connections come to one listener:
// the kernel cannot tell which is whose, so none is believed.
func copiedAddressAtNode(t *testing.T, _ guardMode) string {
	n := newNode(t, options{nodeOnly: true})
	victim, attacker := n.pod(t, steer, lab.PodOptions{}), n.pod(t, steer, lab.PodOptions{})
	from := addrPort(victim.Address, 41000)
	check(t, attacker.AddAddress(victim.Address))
	// The answers go to the victim.
	defer begin(t, attacker, from)()
	eventually(t, "the attacker's claim", func() bool { return n.flows(t) == 1 })
	return seenBy(victim, dialFrom(t, victim, dialing{To: imds, Bind: from}))
}

// reusedPort has a host process, which no hook sees, dial with the source port
// of a pod's connection that ended before anybody claimed it.
func reusedPort(t *testing.T, _ guardMode) string {
	n := newNode(t, options{})
	victim := n.pod(t, steer, lab.PodOptions{HostNetwork: true})
	n.instead.Store(func(c net.Conn, _ uint64) { c.Close() })
	dialFrom(t, victim, dialing{To: imds, Bind: source, Silent: true})
	n.instead.Store(n.answerItself)
	got, err := dial(dialing{To: listenerOf(t, n, victim), Bind: source})
	check(t, err)
	return seenBy(victim, got)
}

// boundToDevice has an attacker on the node's network repeat the victim's
// 4-tuple, which the kernel allows to a socket that is bound to a device. At
// the node listener that would make the victim's connection ambiguous.
func boundToDevice(t *testing.T, _ guardMode) string {
	n := newNode(t, options{nodeOnly: true})
	o := lab.PodOptions{HostNetwork: true}
	victim, attacker := n.pod(t, steer, o), n.pod(t, steer, o)
	release := n.keepFirst()
	defer release()
	tried := make(chan dialed, 1)
	go func() {
		got, _ := lab.Run[dialing, dialed](t.Context(), attacker, "dial", dialing{To: imds, Bind: source, Device: "lo"})
		tried <- got // the test's end may be its own
	}()
	var got dialed
	eventually(t, "the attacker connects or is refused", func() bool {
		select {
		case got = <-tried:
			return true
		default:
			return n.flows(t) == 1
		}
	})
	if got.Errno != 0 {
		return seenBy(attacker, got)
	}
	if seenBy(victim, dialFrom(t, victim, dialing{To: imds, Bind: source})) != ownIdentity {
		return "the victim is refused"
	}
	return "both are served"
}
