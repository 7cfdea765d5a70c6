package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

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

func cgroupsAt(paths ...string) (all []workload.PodCgroup) {
	for _, path := range paths {
		all = append(all, workload.PodCgroup{UID: path, Path: path})
	}
	return all
}

func TestEachPodHasItsTurn(t *testing.T) {
	for _, pods := range []int{0, 1, 7, 60, 61, 250} {
		var all []workload.PodCgroup
		for i := range pods {
			all = append(all, cgroupsAt(fmt.Sprintf("pod-%03d", i))...)
		}
		const rounds = 60
		var turns rota
		seen, most := map[string]bool{}, 0
		for round := range rounds {
			part := turns.next(all, rounds)
			most = max(most, len(part))
			for _, cg := range part {
				seen[cg.UID] = true
			}
			if round == rounds/2 && pods > 1 { // the one whose turn was last ends
				all = append(all[:0:0], all...)
				for i := range all {
					if all[i].Path == turns.last {
						all = append(all[:i], all[i+1:]...)
						break
					}
				}
			}
		}
		if len(seen) != pods || most > (pods+rounds-1)/rounds {
			t.Errorf("of %d pods %d had their turn, at most %d at a time", pods, len(seen), most)
		}
	}
}

// A check looks at the pods whose turn it is and at those that something is
// missing of, also when nothing else is tried any more.
func TestCheckLooksAtAPart(t *testing.T) {
	r, n := newWaiting(t)
	delete(r.waiting, "starting")
	r.waiting["starting too"].next = time.Time{}
	r.audit.last = "passes" // and so it is the turn of "starting"
	if r.check(); !cmp.Equal(n.looked, map[string]int{"starting": 1, "starting too": 1}) {
		t.Errorf("looked at %v, want the two that have no sandbox", n.looked)
	}
	clear(n.looked)
	clear(r.waiting)
	if r.check(); len(n.looked) != 1 {
		t.Errorf("looked at %v, want the one whose turn it is", n.looked)
	}
}

// What could not be written, or removed, is tried again.
func TestCheckTriesAgain(t *testing.T) {
	k, n := newKernel(), &node{}
	n.run(1, workload.Pod{UID: "agent", Decision: deny})
	n.run(2, workload.Pod{UID: "passes", Decision: pass})
	n.cgroups = append(n.cgroups, workload.PodCgroup{UID: "orphan", CgroupID: 3, Path: "orphan"})
	k.verdicts[3] = workload.Entry{Verdict: workload.Pass}
	r := newReconciler(t, k, n, func(o *Options) { o.Self = 1 })
	if err := r.adopt(); err != nil {
		t.Fatal(err)
	}
	k.full = true
	r.reconcile(true)
	k.full = false
	r.applied[9], k.verdicts[9] = nil, workload.Entry{Verdict: workload.Pass} // as if its removal had failed
	r.check()
	wantVerdicts(t, k, map[uint64]workload.Entry{1: OwnEntry(), 2: {Verdict: workload.Pass}, 3: orphanEntry()})
	if len(r.last.lacking) != 0 {
		t.Errorf("still lacking: %v", r.last.lacking)
	}
}

// A check looks at all guards, and at no links but those of the pods whose turn
// it is.
func TestCheckLooksAtGuards(t *testing.T) {
	p := newPairs(t)
	p.guard.look() // nothing is asked for
	looks := p.looks
	delete(p.kernel.guarded, 7)
	p.guard.ask(asking{missing: true, guards: true})
	p.guard.look()
	wantGuarded(t, p.kernel, map[int]uint64{7: 1})
	if p.looks != looks {
		t.Error("its links were looked at though it was not its turn")
	}
	p.links.ifindexes = []int{7, 8}
	p.guard.ask(asking{pods: map[string]bool{"one": true}, missing: true, guards: true})
	p.guard.look()
	wantGuarded(t, p.kernel, map[int]uint64{7: 1, 8: 1})
}

// A link that a pod does not have is waited for by events alone; a pod that
// could not be looked at is looked at with each check.
func TestCheckRetriesLooksThatFailed(t *testing.T) {
	p := newPairs(t)
	for _, tc := range []struct {
		missing error
		again   bool
	}{{errNoLink, false}, {errNoLinkYet, false}, {errNoSandbox, true}, {context.DeadlineExceeded, true}} {
		p.err = tc.missing
		p.guard.ask(asking{pods: map[string]bool{"one": true}})
		p.guard.look()
		p.guard.waiting["one"].next = time.Time{} // it has lasted too long
		looks := p.looks
		p.guard.ask(asking{missing: true, guards: true})
		p.guard.look()
		if again := p.looks > looks; again != tc.again {
			t.Errorf("%v: looked at again: %t, want %t", tc.missing, again, tc.again)
		}
	}
}

// When a sandbox ends, that pod's listener and links are looked at again, at
// once and without a check.
func TestEndOfASandboxHasItsPodLookedAt(t *testing.T) {
	first, second := startPod(t), startPod(t)
	k, n := newKernel(), &node{pids: map[string][]int{"one": {first, second}}, looked: map[string]int{}}
	n.run(1, workload.Pod{UID: "one", Decision: steer})
	n.run(2, workload.Pod{UID: "other", Decision: steer})
	r := newReconciler(t, k, n, func(o *Options) { o.GuardLinks = true })
	links := make(map[uint64]int)
	r.guard.linksOf = func(ns, _ *namespace) (podLinks, error) {
		links[ns.inode]++
		return podLinks{inode: ns.inode, ifindexes: []int{7}}, nil
	}
	r.reconcile(true)
	r.guard.look()
	before := r.listeners["one"].inode
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-r.sandboxes.news
	clear(n.looked)
	r.lookAtLost()
	if n.looked["other"] != 0 {
		t.Error("another pod was looked at")
	}
	now := r.listeners["one"]
	if now == nil || now.inode == before {
		t.Fatalf("listener %+v, want one in the namespace that the pod is in now", now)
	}
	if k.verdicts[1].NetnsCookie != now.netnsCookie || k.verdicts[1].Port != now.port() {
		t.Errorf("the verdict is %+v, want it to name the new listener", k.verdicts[1])
	}
	r.guard.look()
	if links[now.inode] != 1 {
		t.Error("its links were not looked for in the namespace that the pod is in now")
	}
	if err := syscall.Kill(second, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-r.sandboxes.news
	r.lookAtLost()
	if len(r.Listeners()) != 0 || k.verdicts[1].Verdict != workload.Unknown {
		t.Errorf("%v and %+v after the last sandbox ended, want no listener and a pod that is held", r.Listeners(), k.verdicts[1])
	}
}

// What one agent opened the next one serves, at the same port, with no other
// listener opened: it tags those that it got, once more.
func TestListenersAreAdopted(t *testing.T) {
	k, n := newKernel(), &node{}
	n.run(1, workload.Pod{UID: "one", HostNetwork: true, Decision: steer})
	n.run(2, workload.Pod{UID: "ends", HostNetwork: true, Decision: steer})
	before := newReconciler(t, k, n, nil)
	before.reconcile(true)
	entry := k.verdicts[1]
	var exported []ExportedListener
	for _, h := range before.Export() {
		exported = append(exported, ExportedListener{PodUID: h.PodUID, Inode: h.Inode, Listener: copyOf(t, h.Listener)})
	}
	served := make(chan uint64, 1)
	after := newReconciler(t, k, n, func(o *Options) {
		o.Serve = func(c net.Conn, cookie uint64) {
			c.Close()
			served <- cookie
		}
	})
	after.Adopt(exported)
	before.Close()
	n.cgroups = n.cgroups[:1]
	after.reconcile(true)
	if k.tagged != 4 || k.verdicts[1] != entry {
		t.Errorf("%d listeners tagged and %+v applied, want 4 and %+v", k.tagged, k.verdicts[1], entry)
	}
	if _, ok := after.Listeners()["ends"]; ok {
		t.Error("the listener of a pod that ended is kept")
	}
	c, err := net.DialTCP("tcp4", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(entry.Port)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if cookie := <-served; cookie != entry.NetnsCookie {
		t.Errorf("served with cookie %d, want %d", cookie, entry.NetnsCookie)
	}
}

// An agent with other settings closes what it would not have opened.
func TestListenersOutOfPlaceAreNotAdopted(t *testing.T) {
	k, n := newKernel(), &node{}
	n.run(1, workload.Pod{UID: "one", HostNetwork: true, Decision: steer})
	before := newReconciler(t, k, n, nil)
	before.reconcile(true)
	for name, change := range map[string]func(*Options){
		"other ports":   func(o *Options) { o.Ports = PortRange{First: 27000, Last: 27999} },
		"node delivery": func(o *Options) { o.NodeOnly = true },
	} {
		l := copyOf(t, before.Export()[0].Listener)
		after := newReconciler(t, k, n, change)
		after.Adopt([]ExportedListener{{PodUID: "one", Listener: l}})
		if len(after.Listeners()) != 0 {
			t.Errorf("%s: adopted", name)
		}
		if err := l.Close(); err == nil {
			t.Errorf("%s: left open", name)
		}
	}
}

// An adopted listener asks for no keep-alive probes, as one that was opened.
func TestConnectionsAreNotProbed(t *testing.T) {
	opened, err := listen(newKernel(), netip.AddrPortFrom(loopback, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	adopted, err := adoptListener(newKernel(), copyOf(t, opened.Listener))
	if err != nil {
		t.Fatal(err)
	}
	defer adopted.Close()
	for name, l := range map[string]*listener{"opened": opened, "adopted": adopted} {
		client, err := net.Dial("tcp4", opened.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var probed int
		control := raw.Control(func(fd uintptr) {
			probed, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE)
		})
		if probed != 0 || err != nil || control != nil {
			t.Errorf("%s: SO_KEEPALIVE is %d, want 0: %v, %v", name, probed, err, control)
		}
	}
}

// copyOf returns the listener as another process would have it. The listener
// goes on to accept: its mode must not change, as it does for a moment with
// net.FileListener of what the method File returns.
func copyOf(t *testing.T, l net.Listener) net.Listener {
	t.Helper()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var twin int
	control := raw.Control(func(fd uintptr) { twin, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(control, err); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(twin), "copy")
	defer f.Close()
	copied, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	return copied
}
