package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/test/lab"
)

// attachAnothers attaches a connect4 program of somebody else's to the cgroup
// with the flags, in the way that is older than links, until the test ends or
// detach is called. says is what it says to every connect.
func attachAnothers(t *testing.T, cgroup string, flags uint32, says int32) (detach func(), err error) {
	t.Helper()
	dir, err := os.Open(cgroup)
	check(t, err)
	program := connectProgram(t, says)
	err = link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(dir.Fd()), Program: program, Attach: ebpf.AttachCGroupInet4Connect, Flags: flags,
	})
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	detach = sync.OnceFunc(func() {
		check(t, link.RawDetachProgram(link.RawDetachProgramOptions{
			Target: int(dir.Fd()), Program: program, Attach: ebpf.AttachCGroupInet4Connect,
		}))
		check(t, dir.Close())
	})
	t.Cleanup(detach)
	return detach, nil
}

const (
	override = unix.BPF_F_ALLOW_OVERRIDE
	multi    = unix.BPF_F_ALLOW_MULTI

	refuses, allows = 0, 1
)

// A program that others attached first keeps ours out if it is attached at our
// cgroup or above and shares with no other. The error names it.
func TestAnothersProgramFirst(t *testing.T) {
	for name, tc := range map[string]struct {
		flags    uint32
		where    func(l *lab.Node, pod string) string
		inTheWay bool
	}{
		"alone, above":          {0, func(l *lab.Node, _ string) string { return filepath.Dir(l.Kubepods) }, true},
		"alone, at kubepods":    {0, func(l *lab.Node, _ string) string { return l.Kubepods }, true},
		"alone, below":          {0, func(_ *lab.Node, pod string) string { return pod }, false},
		"yielding, above":       {override, func(l *lab.Node, _ string) string { return filepath.Dir(l.Kubepods) }, false},
		"yielding, at kubepods": {override, func(l *lab.Node, _ string) string { return l.Kubepods }, true},
		"sharing, above":        {multi, func(l *lab.Node, _ string) string { return filepath.Dir(l.Kubepods) }, false},
		"sharing, at kubepods":  {multi, func(l *lab.Node, _ string) string { return l.Kubepods }, false},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := lab.NewNode(t.TempDir())
			check(t, err)
			t.Cleanup(func() { check(t, l.Close()) })
			pod := filepath.Join(l.Kubepods, "podx")
			check(t, os.Mkdir(pod, 0o755))
			at := tc.where(l, pod)
			detach, err := attachAnothers(t, at, tc.flags, allows)
			check(t, err)
			defer detach()
			hooks, err := intercept.Load(l.BPFFS, quiet())
			check(t, err)
			defer hooks.Close()
			for _, err := range []error{intercept.CheckPlace(l.Kubepods), hooks.Attach(l.Kubepods, true)} {
				var exclusive *intercept.ExclusiveError
				if errors.As(err, &exclusive) != tc.inTheWay || (err != nil) != tc.inTheWay {
					t.Fatalf("%v, want a program in the way: %t", err, tc.inTheWay)
				}
				if tc.inTheWay && (exclusive.Cgroup != at || exclusive.Hook != "connect4") {
					t.Errorf("%+v, want the program at %s", exclusive, at)
				}
			}
		})
	}
}

// A program that others attach after ours takes nothing from ours, wherever it
// is: above it is not even run for pods, at the same cgroup it is kept out.
func TestAnothersProgramLater(t *testing.T) {
	n := newNode(t, options{})
	p := n.pod(t, steer, lab.PodOptions{})
	if _, err := attachAnothers(t, n.Kubepods, 0, refuses); !errors.Is(err, unix.EPERM) {
		t.Errorf("at kubepods: %v, want EPERM", err)
	}
	above, err := attachAnothers(t, filepath.Dir(n.Kubepods), 0, refuses)
	check(t, err)
	if got := dialFrom(t, p, dialing{To: imds}); got.Answer.UID != p.UID {
		t.Errorf("with another's above: %+v, want pod %s", got, p.UID)
	}
	// Once ours is gone it cannot come back before the other goes.
	n.detachLink(t, "link_connect4")
	var exclusive *intercept.ExclusiveError
	if err := n.hooks.Attach(n.Kubepods, true); !errors.As(err, &exclusive) {
		t.Errorf("Attach = %v, want *ExclusiveError", err)
	}
	above()
	check(t, n.hooks.Attach(n.Kubepods, true))
	if got := dialFrom(t, p, dialing{To: imds}); got.Answer.UID != p.UID {
		t.Errorf("put back: %+v, want pod %s", got, p.UID)
	}
	if _, err := attachAnothers(t, p.Cgroup, 0, allows); err != nil {
		t.Fatal(err)
	}
	if got := dialFrom(t, p, dialing{To: imds}); got.Answer.UID != p.UID {
		t.Errorf("with another's below: %+v, want pod %s", got, p.UID)
	}
}
