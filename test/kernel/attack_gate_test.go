package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/lab"
)

const (
	leaked    = "AN IMPOSTOR HAS THE REQUEST"
	errorSoon = "no byte either way, an error soon"
	// soon is within what clients wait for an answer.
	soon = 5 * time.Second
)

// gateAttacks have the node's address translation, which comes after the
// connect hook, lead steered connections to somebody else, as the rules of
// portmap (hostPort) and kube-proxy (NodePort) do.
func gateAttacks() []attack {
	var all []attack
	for _, way := range []dialing{{}, {Mapped: true}, {Nonblock: true}, {Way: wayMPTCP}, {Way: wayFastOpen}, {Way: wayFastOpenConnect}} {
		all = append(all, attack{
			name: "hostPort 2579, node delivery, " + way.manner(), expected: always(errorSoon),
			defence: "gate", success: leaked,
			run: func(t *testing.T, _ guardMode) string { return hostPortAlive(t, way) },
		})
	}
	return append(
		all,
		attack{
			name: "hostPort 2579, node delivery, agent dead, then back", expected: always(errorSoon),
			defence: "gate", success: leaked,
			run: func(t *testing.T, _ guardMode) string { return hostPortOfDeadAgent(t, options{nodeOnly: true}, steer) },
		},
		attack{
			name: "hostPort 2579, unknown pod, agent dead, then back", expected: always(errorSoon),
			defence: "gate", success: leaked,
			run: func(t *testing.T, _ guardMode) string { return hostPortOfDeadAgent(t, options{}, unknownPod) },
		},
		attack{
			name: "hostPort 2579, guard off", expected: map[guardMode]string{guardOff: errorSoon},
			defence: "gate", success: leaked, without: guardOff,
			run: func(t *testing.T, guard guardMode) string {
				_, victim, p := hostPortNode(t, options{nodeOnly: true, guard: guard}, steer)
				return p.seenBy(t, victim, dialing{})
			},
		},
		attack{
			name: "NodePorts 28000-29999, pod on the node's network", expected: always(errorSoon),
			defence: "gate", success: leaked, run: nodePorts,
		},
		attack{
			name: "translated in the pod's own namespace", expected: always(errorSoon),
			defence: "gate", success: leaked, run: ownTranslation,
		},
		attack{
			name: "closed before anybody accepted", expected: always("no byte"),
			defence: "closed sockets stay shut", success: leaked, run: closedEarly,
		},
	)
}

// unknownPod is a decision on a pod that the cluster does not know.
var unknownPod = decision{}

func (d dialing) manner() string {
	switch {
	case d.Mapped:
		return "IPv4-mapped"
	case d.Nonblock:
		return "non-blocking"
	case d.Way == wayMPTCP:
		return "MPTCP"
	case d.Way == wayFastOpen:
		return "TFO, sendto"
	case d.Way == wayFastOpenConnect:
		return "TFO, connect"
	}
	return "connect"
}

// poser is a process that answers in the agent's place, and what it was sent.
type poser struct {
	at  netip.AddrPort
	got string // the file
}

// pose has a process of the pod answer at the port.
func pose(t *testing.T, p *lab.Pod, at netip.AddrPort) poser {
	t.Helper()
	o := posing{At: at, Got: filepath.Join(t.TempDir(), "got"), Listens: filepath.Join(t.TempDir(), "listens")}
	check(t, os.WriteFile(o.Got, nil, 0o600))
	go lab.Run[posing, struct{}](t.Context(), p, "pose", o) // until the test ends
	eventually(t, "the impostor listens", func() bool {
		_, err := os.Stat(o.Listens)
		return err == nil
	})
	return poser{at, o.Got}
}

type posing struct {
	At           netip.AddrPort
	Got, Listens string // files: what it was sent, and to be made once it listens
}

func init() {
	lab.Register("pose", actPoser)
	lab.Register("request", requestOnce)
}

// actPoser takes Fast Open too, so that it would get what comes with a SYN.
func actPoser(o posing) (struct{}, error) {
	none := struct{}{}
	got, err := os.OpenFile(o.Got, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return none, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return none, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Port: int(o.At.Port()), Addr: o.At.Addr().As4()}),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 16),
		unix.Listen(fd, 64),
		os.WriteFile(o.Listens, nil, 0o600),
	)
	for err == nil {
		var c int
		if c, _, err = unix.Accept(fd); err == nil {
			go poseTo(c, got)
		}
	}
	return none, err
}

func poseTo(c int, got *os.File) {
	defer unix.Close(c)
	if _, err := unix.Write(c, []byte(`{"UID":"impostor"}`+"\n")); err != nil {
		return
	}
	for buffer := make([]byte, 512); ; {
		n, err := unix.Read(c, buffer)
		if err != nil || n <= 0 {
			return
		}
		if _, err := got.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// conversed is the result of a request.
type conversed struct {
	Errno  unix.Errno // of whatever failed
	Closed bool       // the other side's word was its end
	Took   time.Duration
	Answer answer
}

// request is what a client says. No answer may come from, and no byte go to,
// anybody but the agent.
const request = "GET /metadata/identity/oauth2/token\n"

// requestOnce connects, sends a request and reads an answer.
func requestOnce(d dialing) (c conversed, err error) {
	start := time.Now()
	defer func() { c.Took = time.Since(start) }()
	fd, err := d.socket()
	if err != nil {
		return c, err
	}
	defer unix.Close(fd)
	err = d.connect(fd)
	if err == nil && d.Way != wayFastOpen && d.Way != wayFastOpenConnect { // these have sent theirs
		_, err = unix.Write(fd, []byte(request))
	}
	if err == nil && !d.Silent {
		c.Answer, err = read(fd)
	}
	if errors.As(err, &c.Errno) {
		return c, nil
	}
	c.Closed = err != nil
	return c, nil
}

// seenBy has the victim send a request, and returns the result.
func (p poser) seenBy(t *testing.T, victim *lab.Pod, d dialing) string {
	t.Helper()
	d.To = imds
	got, err := lab.Run[dialing, conversed](t.Context(), victim, "request", d)
	check(t, err)
	sent, err := os.ReadFile(p.got)
	check(t, err)
	switch {
	case len(sent) > 0:
		return leaked
	case got.Answer.UID != "" || got.Answer.Err != "":
		return seenBy(victim, dialed{Answer: got.Answer})
	case got.Took > soon:
		return "refused after " + got.Took.String()
	case got.Errno == 0 && !got.Closed:
		return fmt.Sprintf("%+v", got)
	}
	return errorSoon
}

// nft runs rules in the network namespace at the path.
func nft(t *testing.T, netns, rules string) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "nsenter", "--net="+netns, "nft", "-f", "-") // cleanups use it too
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, bytes.TrimSpace(out))
	}
}

const nodeNetns = "/proc/self/ns/net"

// translate has what is sent to local addresses at the ports go to the poser
// instead, as portmap's rules for a hostPort do, those for loopback included.
func (p poser) translate(t *testing.T, netns, ports string) {
	t.Helper()
	for name, value := range map[string]string{"ip_forward": "1", "conf/all/route_localnet": "1"} {
		setSysctl(t, netns, "net/ipv4/"+name, value)
	}
	nft(t, netns, fmt.Sprintf(`table ip hostports {
		chain prerouting { type nat hook prerouting priority dstnat; tcp dport %[1]s fib daddr type local dnat to %[2]s; }
		chain output { type nat hook output priority -100; tcp dport %[1]s fib daddr type local dnat to %[2]s; }
		chain postrouting { type nat hook postrouting priority srcnat; ip saddr 127.0.0.1 ip daddr != 127.0.0.0/8 masquerade; }
	}`, ports, p.at))
	t.Cleanup(func() { exec.Command("nsenter", "--net="+netns, "nft", "delete table ip hostports").Run() })
}

// setSysctl sets a setting of the network namespace, until the test ends.
func setSysctl(t *testing.T, netns, name, value string) {
	t.Helper()
	path := "/proc/sys/" + name
	before, err := exec.CommandContext(t.Context(), "nsenter", "--net="+netns, "cat", path).Output()
	check(t, err)
	write := func(value string) error {
		cmd := exec.Command("nsenter", "--net="+netns, "tee", path)
		cmd.Stdin = strings.NewReader(value)
		return cmd.Run()
	}
	check(t, write(value))
	t.Cleanup(func() {
		if _, err := os.Stat(netns); err == nil {
			write(string(before))
		}
	})
}

// hostPortNode is a node with a victim, and a tenant whose hostPort is the node
// listener's port.
func hostPortNode(t *testing.T, o options, d decision) (*node, *lab.Pod, poser) {
	n := newNode(t, o)
	tenant := n.pod(t, pass, lab.PodOptions{})
	p := pose(t, tenant, addrPort(tenant.Address, 8080))
	p.translate(t, nodeNetns, fmt.Sprint(nodeListener.Port()))
	if d.Verdict == workload.Unknown {
		return n, n.stranger(t, lab.PodOptions{}), p
	}
	return n, n.pod(t, d, lab.PodOptions{}), p
}

func hostPortAlive(t *testing.T, d dialing) string {
	_, victim, p := hostPortNode(t, options{nodeOnly: true}, steer)
	return p.seenBy(t, victim, d)
}

func hostPortOfDeadAgent(t *testing.T, o options, d decision) string {
	n, victim, p := hostPortNode(t, o, d)
	alive := p.seenBy(t, victim, dialing{})
	n.stop()
	dead := p.seenBy(t, victim, dialing{})
	n.startAgain(t)
	return worst(errorSoon, alive, dead, p.seenBy(t, victim, dialing{}))
}

func nodePorts(t *testing.T, _ guardMode) string {
	n := newNode(t, options{})
	tenant := n.pod(t, pass, lab.PodOptions{})
	victim := n.pod(t, steer, lab.PodOptions{HostNetwork: true})
	p := pose(t, tenant, addrPort(tenant.Address, 8080))
	p.translate(t, nodeNetns, fmt.Sprintf("%d-%d", ports.First, ports.Last))
	return worst(errorSoon, p.seenBy(t, victim, dialing{}), p.seenBy(t, victim, dialing{Mapped: true}))
}

func ownTranslation(t *testing.T, _ guardMode) string {
	n := newNode(t, options{})
	victim := n.pod(t, steer, lab.PodOptions{})
	p := pose(t, victim, netip.MustParseAddrPort("127.0.0.1:8080"))
	p.translate(t, victim.Netns(), fmt.Sprintf("%d-%d", ports.First, ports.Last))
	return p.seenBy(t, victim, dialing{})
}

// closedEarly has a client write and close at once: what is left in its socket
// must not go out when the record goes.
func closedEarly(t *testing.T, _ guardMode) string {
	n, victim, p := hostPortNode(t, options{nodeOnly: true}, steer)
	_, err := lab.Run[dialing, conversed](t.Context(), victim, "request", dialing{To: imds, Silent: true})
	check(t, err)
	var sent []byte
	eventually(t, "the kernel has tried to send it again", func() bool {
		sent, err = os.ReadFile(p.got)
		check(t, err)
		return len(sent) > 0 || n.gateDrops(t) >= 2
	})
	if len(sent) > 0 {
		return leaked
	}
	return "no byte"
}

// gateDrops returns how many packets the gate has dropped.
func (n *node) gateDrops(t *testing.T) uint64 {
	t.Helper()
	all, err := n.hooks.Drops()
	check(t, err)
	return all["gate"]
}
