package kernel

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/attest"
	"github.com/sidestep-agent/sidestep/pkg/cgroups"
	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/routeguard"
	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/lab"
)

const (
	quota = 32
	hold  = 300 * time.Millisecond // of unknown pods
)

var (
	nodeListener = netip.MustParseAddrPort("169.254.169.252:2579")
	ports        = delivery.PortRange{First: 28000, Last: 29999}
)

// options of a node under test; the zero value is the default delivery.
type options struct {
	nodeOnly bool
	guard    guardMode
	ports    delivery.PortRange // of listeners in pods; zero: the default
	settings func(*intercept.Settings)
	// inPod has the node listener's socket made in a pod that is gone: that of
	// an agent which has handed it over.
	inPod bool
	line  bool // with the second line, as full is in the agent
}

// guardMode is what --guard says; the zero value is full, as there.
type guardMode int

const (
	guardFull guardMode = iota
	guardSocket
	guardOff
)

// node is a lab node with the agent's kernel side, delivery and attestation
// on it, and a stand-in for the metadata service that answers {"UID":"imds"}.
type node struct {
	*lab.Node
	hooks    *intercept.Hooks
	settings intercept.Settings
	tree     *cgroups.Tree
	pods     *podList
	attester *attest.Attestor
	delivery *delivery.Reconciler
	instead  atomicServe // takes accepted connections in place of answer
	options  options
	line     *routeguard.Line // nil: none
	repairs  atomic.Int64     // of the line
	stop     func()           // ends delivery and the node listener, as a dead agent would
	rest     func()           // ends delivery's writing alone, as one that hands over
}

func newNode(t *testing.T, o options) *node {
	t.Helper()
	l, err := lab.NewNode(t.TempDir())
	check(t, err)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("the lab is not clean: %v", err)
		}
	})
	n := &node{Node: l, pods: newPodList(), options: o}
	n.hooks, err = intercept.Load(l.BPFFS, quiet())
	check(t, err)
	t.Cleanup(func() { n.hooks.Close() })
	n.tree, err = cgroups.Open(l.CgroupRoot, l.Kubepods, quiet())
	check(t, err)
	t.Cleanup(func() { n.tree.Close() })
	n.attester = n.newAttester()
	n.serve(t, imds, answerAsIMDS)
	n.start(t, o)
	return n
}

// startAgain is a new agent after stop, with everything that ends with a
// process opened again.
func (n *node) startAgain(t *testing.T) {
	t.Helper()
	check(t, n.hooks.Close())
	var err error
	n.hooks, err = intercept.Load(n.BPFFS, quiet())
	check(t, err)
	n.tree, err = cgroups.Open(n.CgroupRoot, n.Kubepods, quiet())
	check(t, err)
	n.attester = n.newAttester()
	n.start(t, n.options)
}

func (n *node) newAttester() *attest.Attestor {
	return attest.New(attest.Options{
		Flows: n.hooks, Cgroups: n.tree, Pods: n.pods, Log: quiet(),
		Registerer: prometheus.NewRegistry(), Hold: hold, Clock: clock.RealClock{},
	})
}

// start runs the parts of the agent that end with its process.
func (n *node) start(t *testing.T, o options) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	tasks := make(chan error, 4)
	at, err := n.listen(t, o)
	check(t, err)
	n.settings = intercept.Settings{
		KubepodsID: n.tree.KubepodsID(), NodeNetns: at.NetnsCookie(), NodeListener: nodeListener,
		FirstPort: ports.First, LastPort: ports.Last, Quota: quota,
	}
	n.settings.QoSIDs, err = cgroups.QoS(n.Kubepods)
	check(t, err)
	if o.ports == (delivery.PortRange{}) {
		o.ports = ports
	}
	if o.settings != nil {
		o.settings(&n.settings)
	}
	check(t, n.hooks.Configure(n.settings))
	if !o.inPod {
		check(t, n.hooks.AttachOwn(lab.OwnCgroup()))
	}
	check(t, n.hooks.Attach(n.Kubepods, o.guard != guardOff))
	n.delivery, err = delivery.NewReconciler(delivery.Options{
		Kernel: n.hooks, Pods: n.pods, Cgroups: n.tree, Serve: n.answer,
		Proc: "/proc", Ports: o.ports, NodeOnly: o.nodeOnly, Log: quiet(),
		GuardLinks: o.guard == guardFull, Line: n.makeLine(t, o),
	})
	check(t, err)
	run := func(task func(context.Context) error) { go func() { tasks <- task(ctx) }() }
	run(n.tree.Run)
	<-n.tree.Ready()
	writing, rest := context.WithCancel(ctx)
	rested := make(chan struct{})
	run(func(context.Context) error {
		defer close(rested)
		return n.delivery.Run(writing)
	})
	n.rest = func() {
		rest()
		<-rested
	}
	run(func(ctx context.Context) error { return at.Run(ctx, n.answer) })
	run(func(ctx context.Context) error {
		return n.hooks.WatchUnknowns(ctx, func(uint64) { n.delivery.Trigger() })
	})
	n.stop = func() {
		cancel()
		for range cap(tasks) {
			if err := <-tasks; err != nil {
				t.Error(err)
			}
		}
		n.delivery.Close()
		n.stop = func() {}
	}
	t.Cleanup(func() { n.stop() })
}

// flows returns how many flow records there are.
func (n *node) flows(t *testing.T) int {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(n.BPFFS, intercept.PinDirectory, "sidestep_flows"), nil)
	check(t, err)
	defer m.Close()
	var key, value []byte
	count := 0
	for entries := m.Iterate(); entries.Next(&key, &value); {
		count++
	}
	return count
}

// pod starts a pod about which the rules say d, and waits until the kernel
// side has its verdict.
func (n *node) pod(t *testing.T, d workload.Decision, o lab.PodOptions) *lab.Pod {
	t.Helper()
	p := n.stranger(t, o)
	n.pods.set(workload.Pod{UID: p.UID, Name: p.UID, HostNetwork: o.HostNetwork, Decision: d})
	n.settled(t, p.Cgroup, d.Verdict)
	return p
}

// stranger starts a pod that the cluster does not know.
func (n *node) stranger(t *testing.T, o lab.PodOptions) *lab.Pod {
	t.Helper()
	if o.Capabilities == nil {
		o.Capabilities = attackers
	}
	p, err := n.StartPod(o)
	check(t, err)
	t.Cleanup(func() {
		if _, err := os.Stat(p.Cgroup); err == nil {
			p.Stop()
		}
	})
	return p
}

// settled waits until the verdict is applied for the cgroup.
func (n *node) settled(t *testing.T, cgroup string, want workload.Verdict) workload.Entry {
	t.Helper()
	var e workload.Entry
	id, err := lab.CgroupID(cgroup)
	check(t, err)
	eventually(t, want.String()+" is applied for "+cgroup, func() bool {
		var ok bool
		e, ok, err = n.hooks.Verdict(id)
		check(t, err)
		return ok && e.Verdict == want
	})
	return e
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("after 10 s still not so: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip)), port)
}
