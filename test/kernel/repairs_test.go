package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/lab"
)

// pinDir is where the node's agent has its pins.
func (n *node) pinDir() string { return filepath.Join(n.BPFFS, intercept.PinDirectory) }

// detachLink detaches a pinned link, as `bpftool link detach` does.
func (n *node) detachLink(t *testing.T, pin string) {
	t.Helper()
	l, err := link.LoadPinnedLink(filepath.Join(n.pinDir(), pin), nil)
	check(t, err)
	check(t, errors.Join(l.Detach(), l.Close()))
}

// detachAll does so to every link at the cgroup.
func (n *node) detachAll(t *testing.T) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(n.pinDir(), "link_*"))
	check(t, err)
	for _, pin := range all {
		n.detachLink(t, filepath.Base(pin))
	}
}

// repaired returns how often what was repaired, as "object cause".
func (n *node) repaired(t *testing.T) map[string]float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(n.hooks)
	families, err := registry.Gather()
	check(t, err)
	all := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "sidestep_repairs_total" {
			continue
		}
		for _, m := range f.GetMetric() { // labels come sorted: cause, object
			if n := m.GetCounter().GetValue(); n > 0 {
				all[m.GetLabel()[1].GetValue()+" "+m.GetLabel()[0].GetValue()] = n
			}
		}
	}
	return all
}

// each returns one repair of every hook, and that many of maps' pins.
func each(cause string, maps float64) map[string]float64 {
	all := map[string]float64{}
	for _, hook := range []string{
		"sockops", "release", "gate_egress", "gate_ingress", "getpeername4", "getpeername6", "bind4", "bind6",
		"connect4", "connect6", "egress",
	} {
		all[hook+" "+cause] = 1
	}
	if maps != 0 {
		all["map unpinned"] = maps
	}
	return all
}

// What others remove is put back by the next Attach, counted, and active
// beyond the agent. The removal of a pin detaches nothing meanwhile.
func TestRepairs(t *testing.T) {
	const maps = 11
	for name, tc := range map[string]struct {
		take func(*testing.T, *node)
		// heldOut says that pods are steered before the repair, too.
		heldOut bool
		want    map[string]float64
	}{
		"one link detached":    {func(t *testing.T, n *node) { n.detachLink(t, "link_connect4") }, false, map[string]float64{"connect4 detached": 1}},
		"every link detached":  {func(t *testing.T, n *node) { n.detachAll(t) }, false, each("detached", 0)},
		"program replaced":     {replaceProgram, false, map[string]float64{"connect4 replaced": 1}},
		"a link's pin removed": {func(t *testing.T, n *node) { check(t, os.Remove(filepath.Join(n.pinDir(), "link_connect4"))) }, true, map[string]float64{"connect4 unpinned": 1}},
		"a map's pin removed":  {func(t *testing.T, n *node) { check(t, os.Remove(filepath.Join(n.pinDir(), "sidestep_tags"))) }, true, map[string]float64{"map unpinned": 1}},
		"a map's pin another's": {func(t *testing.T, n *node) {
			check(t, os.Remove(filepath.Join(n.pinDir(), "sidestep_tags")))
			check(t, pinOtherLayout(filepath.Join(n.pinDir(), "sidestep_tags")))
		}, true, map[string]float64{"map unpinned": 1}},
		"every pin removed": {func(t *testing.T, n *node) { check(t, os.RemoveAll(n.pinDir())) }, true, each("unpinned", maps)},
		"nothing":           {func(*testing.T, *node) {}, true, map[string]float64{}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, options{guard: guardSocket})
			p := n.pod(t, steer, lab.PodOptions{})
			tc.take(t, n)
			if got := dialFrom(t, p, dialing{To: imds, Impatient: true}); (got.Answer.UID == p.UID) != tc.heldOut {
				t.Errorf("before the repair: %+v", got)
			}
			check(t, n.hooks.Attach(n.Kubepods, true))
			if diff := cmp.Diff(tc.want, n.repaired(t)); diff != "" {
				t.Errorf("repairs (-want +got):\n%s", diff)
			}
			if got := dialFrom(t, p, dialing{To: imds}); got.Answer.UID != p.UID {
				t.Errorf("after the repair: %+v, want pod %s", got, p.UID)
			}
			n.stop()
			check(t, n.hooks.Close())
			if got := dialFrom(t, p, dialing{To: imds}); got.Errno != unix.EPERM {
				t.Errorf("without an agent: %+v, want EPERM", got)
			}
		})
	}
}

// replaceProgram has another program stand behind a link of ours.
func replaceProgram(t *testing.T, n *node) {
	t.Helper()
	other := connectProgram(t, 1)
	l, err := link.LoadPinnedLink(filepath.Join(n.pinDir(), "link_connect4"), nil)
	check(t, err)
	check(t, errors.Join(l.Update(other), l.Close()))
}

// connectProgram returns a program that says the same to every connect: 1 lets
// it be, 0 refuses it.
func connectProgram(t *testing.T, says int32) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "anothers", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, says), asm.Return()},
	})
	check(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

// Without a BPF filesystem what is attached stays so as long as the agent
// lives, which says what is wrong; once there is one, all is pinned again.
func TestUnmountedBPFFS(t *testing.T) {
	n := newNode(t, options{})
	p := n.pod(t, steer, lab.PodOptions{})
	check(t, unix.Unmount(n.BPFFS, unix.MNT_DETACH))
	for range 2 {
		if err := n.hooks.Attach(n.Kubepods, true); !errors.Is(err, intercept.ErrNoBPFFS) || !strings.Contains(err.Error(), "mount -t bpf") {
			t.Errorf("Attach = %v, want ErrNoBPFFS with its fix", err)
		}
		if got := dialFrom(t, p, dialing{To: imds}); got.Answer.UID != p.UID {
			t.Errorf("%+v, want pod %s", got, p.UID)
		}
	}
	check(t, unix.Mount("bpf", n.BPFFS, "bpf", 0, ""))
	check(t, n.hooks.Attach(n.Kubepods, true))
	n.stop()
	check(t, n.hooks.Close())
	if got := dialFrom(t, p, dialing{To: imds}); got.Errno != unix.EPERM {
		t.Errorf("without an agent: %+v, want EPERM", got)
	}
	n.startAgain(t)
	if n.settled(t, p.Cgroup, workload.Steer); len(n.repaired(t)) != 0 {
		t.Errorf("the next agent had to repair %v", n.repaired(t))
	}
}

// The guard of a pod's link is put back, too.
func TestLinkGuardRepaired(t *testing.T) {
	for name, tc := range map[string]struct {
		take func(t *testing.T, n *node, pin string)
		want map[string]float64
	}{
		"detached": {func(t *testing.T, n *node, pin string) { n.detachLink(t, pin) }, map[string]float64{"link detached": 1}},
		"unpinned": {func(t *testing.T, n *node, pin string) { check(t, os.Remove(filepath.Join(n.pinDir(), pin))) }, map[string]float64{"link unpinned": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, options{})
			p := n.pod(t, steer, lab.PodOptions{})
			pin, filter := n.linkGuard(t, p)
			if filter != nil { // before Linux 6.6: nothing is pinned
				check(t, netlink.FilterDel(filter))
				tc.want = map[string]float64{"link detached": 1}
			} else {
				tc.take(t, n, pin)
			}
			n.delivery.Trigger()
			eventually(t, "it is repaired", func() bool { return cmp.Equal(tc.want, n.repaired(t)) })
		})
	}
}

// linkGuard waits for the guard of the pod's link, and returns its pin's name,
// or its filter.
func (n *node) linkGuard(t *testing.T, p *lab.Pod) (pin string, filter netlink.Filter) {
	t.Helper()
	eventually(t, "the pod's link is guarded", func() bool {
		pins, err := filepath.Glob(filepath.Join(n.pinDir(), "tcx_*"))
		check(t, err)
		if len(pins) > 0 {
			pin = filepath.Base(pins[0])
		}
		filters, err := netlink.FilterList(&netlink.GenericLink{LinkAttrs: p.NodeLink}, netlink.HANDLE_MIN_INGRESS)
		check(t, err)
		for _, f := range filters {
			if bpf, ok := f.(*netlink.BpfFilter); ok && bpf.Name == "sidestep_link" {
				filter = f
			}
		}
		return pin != "" || filter != nil
	})
	return pin, filter
}
