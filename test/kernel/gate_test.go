package kernel

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/lab"
)

// gateConnections is 10,000 for the figures in docs/threat-model.md.
var gateConnections = flag.Int("gate.connections", 0, "connections of each test of the gate; 0: so many as make test takes")

func init() { lab.Register("requests", requests) }

// requesting has a process send requests, one after the other, each on a
// connection of its own.
type requesting struct {
	Dialing dialing
	Times   int
}

// requested counts the answers by whose they are, and keeps the slowest one.
type requested struct {
	Answers map[string]int
	Slowest time.Duration
}

func requests(r requesting) (requested, error) {
	all := requested{Answers: map[string]int{}}
	for range r.Times {
		got, err := requestOnce(r.Dialing)
		if err != nil {
			return all, err
		}
		whose := got.Answer.UID
		if whose == "" {
			whose = fmt.Sprint(unix.ErrnoName(got.Errno), got.Answer.Err)
		}
		all.Answers[whose]++
		all.Slowest = max(all.Slowest, got.Took)
	}
	return all, nil
}

// The client's first bytes follow the end of its handshake within microseconds.
// The gate must know by then that the agent has the connection: each packet
// that it drops costs the client 200 ms.
func TestGateDropsNoFirstPacket(t *testing.T) {
	const pods = 4
	for name, tc := range map[string]struct {
		options
		pod      lab.PodOptions
		rps      bool // packets change the processor on their way
		deferred bool // TCP_DEFER_ACCEPT at the listeners
		cookies  bool // no SYN-ACK is a listener's packet
	}{
		"pod delivery":                     {},
		"pod delivery, RPS":                {rps: true},
		"pod delivery, deferred accept":    {deferred: true},
		"pod delivery, SYN cookies":        {cookies: true},
		"node's network":                   {pod: lab.PodOptions{HostNetwork: true}},
		"node delivery":                    {options: options{nodeOnly: true}},
		"node delivery, RPS":               {options: options{nodeOnly: true}, rps: true},
		"node delivery, SYN cookies":       {options: options{nodeOnly: true}, cookies: true},
		"from an agent's pod that is gone": {options: options{nodeOnly: true, inPod: true}},
		"the same, SYN cookies":            {options: options{nodeOnly: true, inPod: true}, cookies: true},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, tc.options)
			var all errgroup.Group
			connections := fewer(1000)
			if *gateConnections > 0 {
				connections = *gateConnections
			}
			if tc.cookies {
				setSysctl(t, nodeNetns, "net/ipv4/tcp_syncookies", "2")
				connections = min(connections, 200) // some wait 200 ms
			}
			results := make([]requested, pods)
			for i := range pods {
				p := n.pod(t, steer, tc.pod)
				n.prepare(t, p, tc.rps, tc.deferred, tc.cookies)
				all.Go(func() (err error) {
					results[i], err = lab.Run[requesting, requested](t.Context(), p, "requests",
						requesting{dialing{To: imds}, connections / pods})
					if right := results[i].Answers[p.UID]; err == nil && right != connections/pods {
						err = fmt.Errorf("%d of %d are the pod's: %v", right, connections/pods, results[i].Answers)
					}
					return err
				})
			}
			if err := all.Wait(); err != nil {
				t.Error(err)
			}
			var slowest time.Duration
			for _, r := range results {
				slowest = max(slowest, r.Slowest)
			}
			drops := n.gateDrops(t)
			t.Logf("%d connections, %d first packets dropped, the slowest answer after %s", connections, drops, slowest)
			if drops > 0 && !tc.cookies {
				t.Errorf("the gate dropped %d first packets", drops)
			}
		})
	}
}

// prepare sets up the namespaces that the pod's connections go through.
func (n *node) prepare(t *testing.T, p *lab.Pod, rps, deferred, cookies bool) {
	t.Helper()
	if cookies {
		setSysctl(t, p.Netns(), "net/ipv4/tcp_syncookies", "2")
	}
	if rps {
		steerPackets(t, p.Netns())
		steerPackets(t, nodeNetns)
	}
	if !deferred {
		return
	}
	// The reconciler alone may look at its listeners while it runs.
	for _, fd := range listeningSockets(t) {
		check(t, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 5))
	}
}

// listeningSockets returns the descriptors of this process on which it listens
// for TCP connections.
func listeningSockets(t *testing.T) (fds []int) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	for _, e := range all {
		fd, err := strconv.Atoi(e.Name())
		check(t, err)
		listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		protocol, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
		if err == nil && listens == 1 && (protocol == unix.IPPROTO_TCP || protocol == unix.IPPROTO_MPTCP) {
			fds = append(fds, fd)
		}
	}
	return fds
}

// steerPackets has all links of the network namespace spread what they receive
// over the first two processors, or the only one.
func steerPackets(t *testing.T, netns string) {
	t.Helper()
	mask := 1<<min(2, runtime.NumCPU()) - 1
	cmd := exec.CommandContext(t.Context(), "nsenter", "--net="+netns, "unshare", "--mount", "sh", "-c",
		fmt.Sprintf("mount -t sysfs none /sys && for q in /sys/class/net/*/queues/rx-*/rps_cpus; do echo %d > $q; done", mask))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("set rps_cpus: %v: %s", err, strings.TrimSpace(string(out)))
	}
}

// listen opens the node listener.
func (n *node) listen(t *testing.T, o options) (*delivery.Node, error) {
	t.Helper()
	if !o.inPod {
		return delivery.ListenNode(n.hooks, nodeListener, quiet())
	}
	_, err := delivery.ReserveNode(nodeListener.Addr())
	check(t, err)
	maker := n.stranger(t, lab.PodOptions{HostNetwork: true})
	l := listenIn(t, maker, nodeListener)
	check(t, maker.Stop())
	t.Cleanup(func() { l.Close() })
	return delivery.AdoptNode(n.hooks, l, quiet())
}

// listenIn listens with a socket that a process of the pod has made.
func listenIn(t *testing.T, maker *lab.Pod, at netip.AddrPort) net.Listener {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	go lab.Run[string, struct{}](t.Context(), maker, "offer", path)
	var fd int
	eventually(t, "the socket is offered", func() (ok bool) {
		var err error
		fd, err = takeSocket(path)
		return err == nil
	})
	check(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	check(t, unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}))
	check(t, unix.Listen(fd, 4096))
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	l, err := net.FileListener(f)
	check(t, err)
	return l
}

// A listener's connections are of the cgroup in which its socket was made, for
// as long as the socket lives: a successor's programs are run for it as well.
func TestGateAfterHandOver(t *testing.T) {
	n := newNode(t, options{nodeOnly: true, inPod: true})
	p := n.pod(t, steer, lab.PodOptions{})
	successor, err := intercept.Load(n.BPFFS, quiet())
	check(t, err)
	defer successor.Close()
	check(t, successor.Attach(n.Kubepods, true))
	got, err := lab.Run[requesting, requested](t.Context(), p, "requests", requesting{dialing{To: imds}, 50})
	check(t, err)
	if got.Answers[p.UID] != 50 || n.gateDrops(t) != 0 {
		t.Errorf("%v, and %d first packets dropped", got.Answers, n.gateDrops(t))
	}
}

// A container that connects before anybody knows which one it is, in a pod
// whose containers are decided on one by one, is found once it is known.
func TestContainerIsFoundOnceKnown(t *testing.T) {
	for _, qos := range []string{"guaranteed", "burstable"} {
		t.Run(qos, func(t *testing.T) {
			n := newNode(t, options{})
			p := n.stranger(t, lab.PodOptions{QoS: qos})
			pod := workload.Pod{UID: p.UID, Name: p.UID, Decision: workload.Decision{Verdict: workload.Unknown}}
			n.pods.set(pod)
			n.settled(t, p.Cgroup, workload.Unknown)
			go func() {
				eventually(t, "it is held", func() bool { return n.heldConnects(t) > 0 })
				pod.Containers = map[string]workload.Decision{p.ContainerID: steer}
				n.pods.set(pod)
			}()
			got := dialFrom(t, p, dialing{To: imds})
			if got.Answer.UID != p.UID || got.Answer.Container != p.ContainerID {
				t.Errorf("%+v, want container %s of pod %s", got, p.ContainerID, p.UID)
			}
		})
	}
}

// heldConnects returns how many connects went to the node listener because no
// verdict was known.
func (n *node) heldConnects(t *testing.T) (count uint64) {
	t.Helper()
	all, err := n.hooks.Connects()
	check(t, err)
	for _, c := range all {
		if c.Verdict == "unknown" {
			count += c.Count
		}
	}
	return count
}
