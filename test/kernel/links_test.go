package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/lab"
)

func TestNextAgentTakesOver(t *testing.T) {
	n := newNode(t, options{})
	kept, gone := n.pod(t, steer, lab.PodOptions{}), n.pod(t, pass, lab.PodOptions{})
	goneID, err := lab.CgroupID(gone.Cgroup)
	check(t, err)
	n.stop()
	check(t, gone.Stop())
	n.pods.remove(gone.UID)
	if _, ok, err := n.hooks.Verdict(goneID); err != nil || !ok {
		t.Fatalf("the last agent's verdicts are not there: %v, %v", ok, err)
	}
	n.startAgain(t)
	eventually(t, "the verdict of a pod that ended is gone", func() bool {
		_, ok, err := n.hooks.Verdict(goneID)
		check(t, err)
		return !ok
	})
	eventually(t, "the kept pod is served by the new agent", func() bool {
		return dialFrom(t, kept, dialing{To: imds}).Answer.UID == kept.UID
	})
}

func TestMapsOfAnotherLayoutAreRefused(t *testing.T) {
	l, err := lab.NewNode(t.TempDir())
	check(t, err)
	defer l.Close()
	pins := filepath.Join(l.BPFFS, intercept.PinDirectory)
	check(t, os.Mkdir(pins, 0o700))
	check(t, pinOtherLayout(filepath.Join(pins, "sidestep_flows")))
	wantRefused(t, l.BPFFS, 0)
}

// Maps whose sizes are ours and whose meaning may not be are refused, too, where
// they are in ours' place: those of layouts before the second.
func TestFirstLayoutIsRefused(t *testing.T) {
	l, err := lab.NewNode(t.TempDir())
	check(t, err)
	defer l.Close()
	h, err := intercept.Load(l.BPFFS, quiet())
	check(t, err)
	check(t, h.Close())
	h, err = intercept.Load(l.BPFFS, quiet()) // its own
	check(t, err)
	check(t, h.Close())
	check(t, sayLayout(filepath.Join(l.BPFFS, intercept.PinDirectory, "sidestep_layout"), 1))
	wantRefused(t, l.BPFFS, 1)
}

func wantRefused(t *testing.T, bpffs string, found uint32) {
	t.Helper()
	h, err := intercept.Load(bpffs, quiet())
	if err == nil {
		h.Close()
	}
	var refused *intercept.LayoutError
	if !errors.As(err, &refused) || refused.Found != found {
		t.Errorf("Load = %v, want a refusal of layout %d", err, found)
	}
}

func TestKubepodsMadeAgain(t *testing.T) {
	n := newNode(t, options{})
	check(t, os.Remove(filepath.Join(n.Kubepods, "burstable")))
	check(t, os.Remove(n.Kubepods))
	check(t, os.MkdirAll(filepath.Join(n.Kubepods, "burstable"), 0o755))
	old := n.settings.KubepodsID
	eventually(t, "the new kubepods is seen", func() bool {
		id := n.tree.KubepodsID()
		return id != 0 && id != old // 0 between the two
	})
	n.settings.KubepodsID = n.tree.KubepodsID()
	check(t, n.hooks.Configure(n.settings))
	check(t, n.hooks.Attach(n.Kubepods, true))
	p := n.pod(t, steer, lab.PodOptions{})
	if got := dialFrom(t, p, dialing{To: imds}); got.Answer.UID != p.UID {
		t.Errorf("%+v, want pod %s", got, p.UID)
	}
}

func TestRestartedSandboxGetsANewListener(t *testing.T) {
	n := newNode(t, options{})
	p := n.pod(t, steer, lab.PodOptions{})
	before := n.settled(t, p.Cgroup, workload.Steer)
	check(t, p.RestartSandbox())
	eventually(t, "a listener in the new namespace", func() bool {
		e := n.settled(t, p.Cgroup, workload.Steer)
		return e.NetnsCookie != before.NetnsCookie
	})
	if got := dialFrom(t, p, dialing{To: imds}); got.Answer.UID != p.UID {
		t.Errorf("%+v, want pod %s", got, p.UID)
	}
}
