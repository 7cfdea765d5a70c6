package delivery

import (
	"log/slog"
	"net"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

var (
	steer = workload.Decision{Verdict: workload.Steer, Access: workload.Identity}
	pass  = workload.Decision{Verdict: workload.Pass}
	deny  = workload.Decision{Verdict: workload.Deny}
)

func newReconciler(t *testing.T, k *kernel, n *node, change func(*Options)) *Reconciler {
	t.Helper()
	o := Options{
		Kernel: k, Pods: n, Cgroups: n, Proc: "/proc", Ports: PortRange{First: 28000, Last: 28100},
		Serve: func(c net.Conn, _ uint64) { c.Close() }, Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&o)
	}
	r, err := NewReconciler(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func wantVerdicts(t *testing.T, k *kernel, want map[uint64]workload.Entry) {
	t.Helper()
	if diff := cmp.Diff(want, k.verdicts); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
}

func TestVerdictsFollowTheRules(t *testing.T) {
	k, n := newKernel(), &node{}
	n.run(1, workload.Pod{UID: "passes", Decision: pass})
	n.run(2, workload.Pod{UID: "denied", Decision: deny})
	n.run(3, workload.Pod{UID: "steered", Decision: steer})
	n.cgroups = append(n.cgroups, workload.PodCgroup{UID: "stranger", CgroupID: 4, Path: "stranger"})
	r := newReconciler(t, k, n, func(o *Options) { o.NodeOnly = true })
	r.reconcile(true)
	wantVerdicts(t, k, map[uint64]workload.Entry{
		1: {Verdict: workload.Pass}, 2: {Verdict: workload.Deny}, 3: {Verdict: workload.Steer},
	})
	n.pods[0].Decision, n.pods[1].Decision = deny, pass
	r.reconcile(false)
	wantVerdicts(t, k, map[uint64]workload.Entry{
		1: {Verdict: workload.Deny}, 2: {Verdict: workload.Pass}, 3: {Verdict: workload.Steer},
	})
}

// A verdict ends with the pod's cgroup and not with its object.
func TestVerdictsEndWithTheCgroup(t *testing.T) {
	for name, d := range map[string]workload.Decision{"passed": pass, "denied": deny, "steered": steer} {
		for _, hostNetwork := range []bool{false, true} {
			k, n := newKernel(), &node{}
			n.run(1, workload.Pod{UID: "gone", HostNetwork: hostNetwork, Decision: d})
			r := newReconciler(t, k, n, func(o *Options) { o.NodeOnly = true })
			r.reconcile(true)
			n.pods = nil // deleted with --force; its processes live on
			for range 3 {
				r.reconcile(true)
				wantVerdicts(t, k, map[uint64]workload.Entry{1: orphanEntry()})
			}
			n.pods = []workload.Pod{{UID: "gone", HostNetwork: hostNetwork, Decision: pass}} // a mirror pod is made again
			r.reconcile(true)
			wantVerdicts(t, k, map[uint64]workload.Entry{1: {Verdict: workload.Pass}})
			n.pods = nil
			r.reconcile(true)
			n.cgroups = nil
			r.reconcile(false)
			if len(k.verdicts) != 0 {
				t.Errorf("%s, host network %t: %+v after the cgroup is gone", name, hostNetwork, k.verdicts)
			}
		}
	}
}

// The same holds for what an earlier agent decided, also on a container alone.
func TestEarlierAgentsOrphansAreHeld(t *testing.T) {
	k, n := newKernel(), &node{}
	k.verdicts[1] = workload.Entry{Verdict: workload.Steer, Port: 28001, NetnsCookie: 5}
	k.verdicts[3] = workload.Entry{Verdict: workload.Pass}
	n.cgroups = []workload.PodCgroup{
		{UID: "gone", CgroupID: 1, Path: "gone"},
		{UID: "gone too", CgroupID: 2, Path: "gone too", Containers: []workload.ContainerCgroup{{ContainerID: "app", CgroupID: 3}}},
		{UID: "never known", CgroupID: 4, Path: "never known"},
	}
	r := newReconciler(t, k, n, nil)
	if err := r.adopt(); err != nil {
		t.Fatal(err)
	}
	r.reconcile(true)
	wantVerdicts(t, k, map[uint64]workload.Entry{1: orphanEntry(), 2: orphanEntry()})
}

func TestEarlierAgentsVerdictsAreReplaced(t *testing.T) {
	k, n := newKernel(), &node{}
	k.verdicts[1] = workload.Entry{Verdict: workload.Pass} // now known, but not decided on
	k.verdicts[2] = workload.Entry{Verdict: workload.Steer, Port: 28001, NetnsCookie: 5}
	n.run(1, workload.Pod{UID: "undecided"})
	r := newReconciler(t, k, n, nil)
	if err := r.adopt(); err != nil {
		t.Fatal(err)
	}
	r.reconcile(true)
	wantVerdicts(t, k, map[uint64]workload.Entry{1: {Verdict: workload.Unknown}})
}

func TestOwnPodAlwaysPasses(t *testing.T) {
	k, n := newKernel(), &node{}
	n.run(1, workload.Pod{UID: "agent", Decision: deny})
	newReconciler(t, k, n, func(o *Options) { o.Self = 1 }).reconcile(true)
	wantVerdicts(t, k, map[uint64]workload.Entry{1: {Verdict: workload.Pass, Agent: true}})
}

func TestSteeredPodWithoutNamespaceIsUnknown(t *testing.T) {
	k, n := newKernel(), &node{pids: map[string][]int{}}
	n.run(1, workload.Pod{UID: "starting", Decision: steer})
	// The runtime is seen first, still in the node's namespace: this one.
	n.pids["starting"] = []int{os.Getpid()}
	r := newReconciler(t, k, n, nil)
	if soon := r.reconcile(true); soon <= 0 || soon > shortestWait {
		t.Errorf("it is looked at again in %s, want at most %s", soon, shortestWait)
	}
	wantVerdicts(t, k, map[uint64]workload.Entry{1: {Verdict: workload.Unknown}})
	if k.tagged != 0 {
		t.Error("a listener was opened in the node's namespace")
	}
}

func TestHostNetworkPodsHaveListenersOfTheirOwn(t *testing.T) {
	k, n := newKernel(), &node{}
	for id, uid := range map[uint64]string{1: "one", 2: "two"} {
		n.run(id, workload.Pod{UID: uid, HostNetwork: true, Decision: steer, Ports: []uint16{28000}})
	}
	r := newReconciler(t, k, n, func(o *Options) { o.Ports = PortRange{First: 28000, Last: 28002} })
	r.reconcile(true)
	one, two := k.verdicts[1], k.verdicts[2]
	if one.Port == two.Port || one.Port == 28000 || two.Port == 28000 || one.NetnsCookie == 0 {
		t.Errorf("%+v and %+v: want two ports, neither the declared one", one, two)
	}
	if k.tagged != 2 {
		t.Errorf("%d listeners tagged, want 2", k.tagged)
	}
	n.cgroups = n.cgroups[:1]
	r.reconcile(false)
	if got := len(r.Listeners()); got != 1 {
		t.Errorf("%d listeners after a pod ended, want 1", got)
	}
}

func TestNotReadyWhileAVerdictIsMissing(t *testing.T) {
	k, n := newKernel(), &node{}
	n.run(1, workload.Pod{UID: "passes", Decision: pass})
	k.full = true
	r := newReconciler(t, k, n, nil)
	r.guard.look()
	r.reconcile(true)
	if closed(r.Ready()) {
		t.Error("ready while a verdict is missing")
	}
	k.full = false
	r.reconcile(false)
	if !closed(r.Ready()) {
		t.Error("not ready once the verdict is written")
	}
}

func TestNotReadyBeforeLinksAreGuarded(t *testing.T) {
	k, n := newKernel(), &node{}
	n.run(1, workload.Pod{UID: "passes", Decision: pass})
	r := newReconciler(t, k, n, func(o *Options) { o.GuardLinks = true })
	r.reconcile(true)
	if closed(r.Ready()) {
		t.Error("ready before the links were looked at")
	}
	r.guard.look()
	if !closed(r.guard.looked) {
		t.Fatal("the look was not noticed")
	}
	r.last.end()
	if !closed(r.Ready()) {
		t.Error("not ready after the links were looked at")
	}
}

func TestContainersOfOnePod(t *testing.T) {
	k, n := newKernel(), &node{}
	n.pods = []workload.Pod{{
		UID: "mixed", Containers: map[string]workload.Decision{"app": steer, "skipped": pass},
	}}
	n.cgroups = []workload.PodCgroup{{
		UID: "mixed", CgroupID: 1, Path: "mixed",
		Containers: []workload.ContainerCgroup{
			{ContainerID: "app", CgroupID: 2}, {ContainerID: "skipped", CgroupID: 3}, {ContainerID: "new", CgroupID: 4},
		},
	}}
	newReconciler(t, k, n, func(o *Options) { o.NodeOnly = true }).reconcile(true)
	wantVerdicts(t, k, map[uint64]workload.Entry{
		1: {Verdict: workload.Unknown, Shared: true}, 2: {Verdict: workload.Steer}, 3: {Verdict: workload.Pass},
	})
}
