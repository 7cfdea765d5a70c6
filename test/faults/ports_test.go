package faults

import (
	"errors"
	"hash/fnv"
	"net"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/scene"
)

const nodeListener = "169.254.169.252:2579"

// stranger starts a pod that the cluster does not know.
func (r *rig) stranger() *scene.Workload {
	r.t.Helper()
	w := workload("stranger", "")
	var err error
	w.Pod, err = r.Node.StartPod(lab.PodOptions{})
	check(r.t, err)
	r.strangers = append(r.strangers, w.Pod)
	return w
}

// holdUntilKnown fails unless a stranger's request is held until the agent
// hears of the pod, which then passes.
func (r *rig) holdUntilKnown(stranger *scene.Workload) {
	r.t.Helper()
	held := make(chan string, 1)
	go func() { held <- r.ask(stranger) }()
	r.eventually("it is held", func() bool { return r.metrics("sidestep_connects_total")["ipv4 unknown"] > 0 })
	check(r.t, r.Introduce(stranger))
	// From here on the node's identity is what it may have.
	r.strangers = slices.DeleteFunc(r.strangers, func(p *lab.Pod) bool { return p == stranger.Pod })
	if got := <-held; got != nodeToken {
		r.t.Errorf("the stranger, which passes, got: %s", got)
	}
}

// take listens in the agent's place, and says when somebody comes.
func take(t *testing.T, at string) (l net.Listener, came <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp4", at)
	check(t, err)
	t.Cleanup(func() { l.Close() })
	visitors := make(chan struct{}, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
			visitors <- struct{}{}
		}
	}()
	return l, visitors
}

// Whoever listens there must not get to speak to pods: they are refused.
func TestNodeListenerTaken(t *testing.T) {
	r := open(t, nodeListener+" taken at the start", "pods are served, those not known refused; not ready until it is free")
	check(t, r.Agent.Kill())
	other, came := take(t, nodeListener)
	next, err := r.StartBeside()
	check(t, err)
	r.Agent = next
	r.problem("another has the node listener's port")
	end := r.watch(ownToken)
	stranger := r.stranger()
	r.want(stranger, refused)
	r.see("not known: refused")
	check(t, stranger.Pod.Stop()) // one that nobody explains for long is a problem of its own
	other.Close()
	r.sound()
	end()
	if len(came) > 0 {
		t.Error("a pod was sent to whoever listens there")
	}
	r.holdUntilKnown(r.stranger())
	r.see("free again: held until known")
}

func TestNodeListenersAddress(t *testing.T) {
	r := open(t, "169.254.169.252 on another link, then taken from lo", "served; put back")
	_, elsewhere, err := net.ParseCIDR("169.254.169.252/32")
	check(t, err)
	address := &netlink.Addr{IPNet: elsewhere}
	other, err := netlink.LinkByIndex(r.passing.Pod.NodeLink.Index)
	check(t, err)
	check(t, netlink.AddrAdd(other, address))
	end := r.watch(ownToken)
	r.want(r.steered, ownToken)
	check(t, netlink.AddrDel(other, &netlink.Addr{IPNet: elsewhere}))
	lo, err := netlink.LinkByName("lo")
	check(t, err)
	check(t, netlink.AddrDel(lo, &netlink.Addr{IPNet: elsewhere}))
	r.logged("putting it back")
	end()
	stranger := r.stranger()
	r.holdUntilKnown(stranger)
	r.see("put back; unknown pods are held there again")
}

func TestMetricsPortTaken(t *testing.T) {
	r := open(t, "the metrics' port taken at the start", "pods are served; metrics once it is free")
	check(t, r.Agent.Kill())
	other, _ := take(t, scene.MetricsAddress)
	check(t, r.Restart(t.Context()))
	end := r.watch(ownToken)
	r.logged("another has the metrics' port")
	r.want(r.steered, ownToken)
	other.Close()
	r.eventually("metrics are served", func() bool { return len(r.metrics("sidestep_build_info")) == 1 })
	end()
}

func init() { lab.Register("bind", bind) }

// binding has a process of a pod listen at a port, and say so by a file.
type binding struct{ Address, There, Until string }

func bind(b binding) (struct{}, error) {
	l, err := net.Listen("tcp4", b.Address)
	if err != nil {
		return struct{}{}, err
	}
	defer l.Close()
	if err := os.WriteFile(b.There, nil, 0o600); err != nil {
		return struct{}{}, err
	}
	for {
		if _, err := os.Stat(b.Until); err == nil {
			return struct{}{}, nil
		}
		time.Sleep(pause)
	}
}

// The agent looks for a port from one that follows from the pod's UID.
func TestPodBindsItsListenersPort(t *testing.T) {
	r := open(t, "a pod binds the port that its listener wants", "the listener has the next port; served")
	check(t, r.steered.Pod.Stop())
	pod, err := r.Node.StartPod(lab.PodOptions{})
	check(t, err)
	hash := fnv.New32a()
	hash.Write([]byte(pod.UID))
	wanted := 28000 + int(hash.Sum32()%2000)
	dir := t.TempDir()
	bound := make(chan error, 1)
	go func() {
		_, err := lab.Run[binding, struct{}](t.Context(), pod, "bind", binding{
			Address: net.JoinHostPort("0.0.0.0", strconv.Itoa(wanted)), There: dir + "/there", Until: dir + "/enough",
		})
		bound <- err
	}()
	r.eventually("the pod has the port", func() bool {
		_, err := os.Stat(dir + "/there")
		return err == nil
	})
	r.steered.Pod, r.steered.Name = pod, "steered-again"
	check(t, r.Introduce(r.steered))
	r.eventually("it is served", func() bool { return r.ask(r.steered) == ownToken })
	end := r.watch(ownToken)
	has := r.listener(r.Agent)
	r.see("wanted %d, has %d", wanted, has)
	if int(has) == wanted || has == 0 {
		t.Errorf("the listener is at %d, the pod at %d", has, wanted)
	}
	end()
	check(t, errors.Join(os.WriteFile(dir+"/enough", nil, 0o600), <-bound))
}
