package faults

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/test/scene"
)

// What the agent has at kubepods, its maps, and what one outside kubepods has at
// its own cgroup; guards of links come on top.
const ownHooks, ownMaps, ownGate = 11, 11, 1

func (r *rig) pins() string { return filepath.Join(r.Node.BPFFS, intercept.PinDirectory) }

// detach detaches pinned links, as `bpftool link detach` does.
func (r *rig) detach(pattern string) (n int) {
	r.t.Helper()
	all, err := filepath.Glob(filepath.Join(r.pins(), pattern))
	check(r.t, err)
	for _, pin := range all {
		l, err := link.LoadPinnedLink(pin, nil)
		check(r.t, err)
		check(r.t, errors.Join(l.Detach(), l.Close()))
	}
	if len(all) == 0 {
		r.t.Fatalf("no pin %s", pattern)
	}
	return len(all)
}

// Each part is still behind another: what connect() does not see, the guards
// drop.
func TestConnectHooksDetached(t *testing.T) {
	r := open(t, "connect hooks detached by force", "closed meanwhile; put back, counted")
	end := r.watch(ownToken, noAnswer, refused)
	n := r.detach("link_connect?")
	r.repaired("detached", n)
	r.want(r.steered, ownToken)
	end()
}

func TestCgroupLinksDetached(t *testing.T) {
	r := open(t, "every link at the cgroup detached by force", "the pods' links are guarded meanwhile; put back, counted")
	end := r.watch(ownToken, noAnswer, refused, "answer 403")
	n := r.detach("link_*")
	r.repaired("detached", n)
	r.want(r.steered, ownToken)
	end()
}

// With all of them detached there is nothing that could refuse: no program asks
// until they are back.
func TestEveryLinkDetached(t *testing.T) {
	r := open(t, "the guards of pods' links detached too", "open until noticed; put back within seconds, counted")
	n := r.detach("link_*") + r.detach("tcx_*")
	since := time.Now()
	r.repaired("detached", n)
	r.see("after %.1f s", time.Since(since).Seconds())
	r.want(r.steered, ownToken)
	check(t, r.Agent.Kill())
	r.want(r.steered, refused)
}

func TestProgramReplaced(t *testing.T) {
	r := open(t, "another program put behind a link", "closed meanwhile; put back, counted")
	end := r.watch(ownToken, noAnswer, refused)
	l, err := link.LoadPinnedLink(filepath.Join(r.pins(), "link_connect4"), nil)
	check(t, err)
	check(t, errors.Join(l.Update(anothers(t)), l.Close()))
	r.repaired("replaced", 1)
	r.want(r.steered, ownToken)
	end()
}

func TestPinsRemoved(t *testing.T) {
	r := open(t, "pins removed (rm -r)", "nothing is detached; pinned again, counted")
	end := r.watch(ownToken)
	check(t, os.RemoveAll(r.pins()))
	r.repaired("unpinned", ownHooks+ownMaps+ownGate)
	end()
	r.restarts()
}

// restarts shows that what is pinned is enough: for the time without an agent,
// and for the next one.
func (r *rig) restarts() {
	r.t.Helper()
	check(r.t, r.Agent.Kill())
	r.want(r.steered, refused)
	r.want(r.passing, nodeToken)
	check(r.t, r.Restart(r.t.Context()))
	r.want(r.steered, ownToken)
}

func TestBPFFSUnmounted(t *testing.T) {
	r := open(t, "BPF filesystem unmounted", "nothing is detached, not ready; pinned again once mounted")
	end := r.watch(ownToken)
	check(t, unix.Unmount(r.Node.BPFFS, unix.MNT_DETACH))
	r.problem("mount -t bpf")
	check(t, unix.Mount("bpf", r.Node.BPFFS, "bpf", 0, ""))
	r.sound()
	r.repaired("unpinned", ownHooks+ownMaps+ownGate)
	end()
	r.restarts()
}

func TestNoBPFFSAtStart(t *testing.T) {
	r := open(t, "no BPF filesystem at the start", "agent run and agent check name the fix; starts once mounted")
	check(t, r.Agent.Kill())
	check(t, unix.Unmount(r.Node.BPFFS, unix.MNT_DETACH))
	r.endsWith("not a BPF filesystem: mount one there (mount -t bpf")
	out, err := r.Agent.Check(t.Context(), r.Scene)
	if err == nil || !strings.Contains(out, "Fix: mount it on the node: mount -t bpf") {
		t.Errorf("agent check: %v\n%s", err, out)
	}
	r.see("both say: mount -t bpf")
	check(t, unix.Mount("bpf", r.Node.BPFFS, "bpf", 0, ""))
	check(t, r.Restart(t.Context()))
	r.want(r.steered, ownToken)
}

// endsWith starts an agent that shall end by itself, and say so.
func (r *rig) endsWith(says string) {
	r.t.Helper()
	next, err := r.StartBeside()
	check(r.t, err)
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	if err := next.WaitEnd(ctx); err != nil {
		check(r.t, errors.Join(err, next.Kill()))
	}
	if !strings.Contains(string(next.Log.Whole()), says) {
		r.t.Errorf("the agent ended without %q\n%s", says, next.LastWords())
	}
}

// anothers returns a connect4 program of somebody else's, that lets everything
// be.
func anothers(t *testing.T) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "anothers", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	check(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

// attach attaches another's program in the way that is older than links, alone.
func (r *rig) attach(cgroup string) (detach func(), err error) {
	r.t.Helper()
	dir, err := os.Open(cgroup)
	check(r.t, err)
	program := anothers(r.t)
	target := link.RawAttachProgramOptions{
		Target: int(dir.Fd()), Program: program, Attach: ebpf.AttachCGroupInet4Connect,
	}
	if err := link.RawAttachProgram(target); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return func() {
		check(r.t, link.RawDetachProgram(link.RawDetachProgramOptions{
			Target: int(dir.Fd()), Program: program, Attach: ebpf.AttachCGroupInet4Connect,
		}))
		check(r.t, dir.Close())
	}, nil
}

func TestAnothersProgramBeforeOurs(t *testing.T) {
	r := open(t, "another's program above, flags=0, before ours", "agent run and agent check name it and the fix; starts once it is gone")
	check(t, r.Agent.Kill())
	check(t, os.RemoveAll(r.pins())) // as on a node that has just booted
	above := filepath.Dir(r.Node.Kubepods)
	detach, err := r.attach(above)
	check(t, err)
	says := `program "anothers"`
	r.endsWith("is attached at " + above + " without BPF_F_ALLOW_MULTI")
	out, err := r.Agent.Check(t.Context(), r.Scene)
	if err == nil || !strings.Contains(out, says) {
		t.Errorf("agent check: %v\n%s", err, out)
	}
	r.see("both name program, place and fix")
	detach()
	check(t, r.Restart(t.Context()))
	r.want(r.steered, ownToken)
}

func TestAnothersProgramAfterOurs(t *testing.T) {
	r := open(t, "another's program above, at and below, flags=0, after ours", "nothing changes for pods")
	end := r.watch(ownToken)
	above, err := r.attach(filepath.Dir(r.Node.Kubepods))
	check(t, err)
	r.want(r.steered, ownToken)
	above()
	if _, err := r.attach(r.Node.Kubepods); !errors.Is(err, unix.EPERM) {
		t.Errorf("at kubepods: %v, want EPERM", err)
	}
	below, err := r.attach(r.steered.Pod.Cgroup)
	check(t, err)
	r.want(r.steered, ownToken)
	below()
	end()
	r.see("at kubepods the kernel refuses it")
}

func TestKubepodsMadeAnew(t *testing.T) {
	r := open(t, "kubepods cgroup removed and recreated", "attached again, counted")
	check(t, errors.Join(r.steered.Pod.Stop(), r.passing.Pod.Stop()))
	check(t, errors.Join(os.Remove(filepath.Join(r.Node.Kubepods, "burstable")), os.Remove(r.Node.Kubepods)))
	time.Sleep(100 * time.Millisecond) // for the agent to see that there is none
	check(t, os.MkdirAll(filepath.Join(r.Node.Kubepods, "burstable"), 0o755))
	r.repaired("moved", ownHooks)
	for _, w := range []*scene.Workload{r.steered, r.passing} {
		w.Name += "-again"
		check(t, r.Start(w))
	}
	r.eventually("the new pod is served", func() bool { return r.ask(r.steered) == ownToken })
	r.want(r.passing, nodeToken)
}
