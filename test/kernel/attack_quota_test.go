package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/cgroups"
	"github.com/sidestep-agent/sidestep/test/lab"
)

// quotaAttacks use up what others need, or keep a pod from what is its own.
func quotaAttacks() []attack {
	var all []attack
	for _, qos := range []string{"guaranteed", "burstable", "besteffort"} {
		all = append(all, attack{
			name: "one pod fills the flows, from many containers, " + qos, expected: always(eperm),
			defence: "quota by the pod's cgroup", success: held,
			run: func(t *testing.T, _ guardMode) string { return manyContainers(t, qos) },
		})
	}
	return append(all,
		attack{
			name: "another's program hides the ends of sockets", expected: always(ownIdentity),
			defence: "sockets' release", success: eperm,
			run: func(t *testing.T, _ guardMode) string { return hiddenEnds(t, dialing{}) },
		},
		attack{
			name: "the same, sockets used again", expected: always(ownIdentity),
			defence: "ends before a new beginning", success: eperm,
			run: func(t *testing.T, _ guardMode) string { return hiddenEnds(t, dialing{Again: 4 * quota}) },
		},
	)
}

// manyContainers has one container use all that the pod may have, and another
// ask. The pod is unknown, so that its flows are held whoever is asked for.
func manyContainers(t *testing.T, qos string) string {
	n := newNode(t, options{})
	p := n.stranger(t, lab.PodOptions{QoS: qos})
	var err error
	n.settings.QoSIDs, err = cgroups.QoS(n.Kubepods) // a class of which this is the first pod
	check(t, err)
	check(t, n.hooks.Configure(n.settings))
	other := filepath.Join(p.Cgroup, fmt.Sprintf("%064x", 2))
	check(t, os.Mkdir(other, 0o755))
	defer n.occupy(t, p, p.Container, quota)()
	return seenBy(p, dialIn(t, p, other, dialing{To: imds}))
}

// hiddenEnds has a pod open and close more connections than it may have at one
// time, while another's program, above kubepods, sets the callbacks of all
// sockets to its own.
func hiddenEnds(t *testing.T, d dialing) string {
	n := newNode(t, options{})
	p := n.pod(t, steer, lab.PodOptions{})
	hideEnds(t, filepath.Dir(n.Kubepods))
	d.To = imds
	for range 4 {
		d.Silent, d.Copies = true, quota
		if d.Again > 0 {
			d.Copies = 1
		}
		if got := dialFrom(t, p, d); got.Errno != 0 {
			return seenBy(p, got)
		}
	}
	return seenBy(p, dialFrom(t, p, dialing{To: imds}))
}

// hideEnds attaches a sockops program that sets each socket's callback flags at
// each call, as one does that wants others than BPF_SOCK_OPS_STATE_CB.
func hideEnds(t *testing.T, cgroup string) {
	t.Helper()
	const rtoCallback = 1
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SockOps, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R2, rtoCallback),
			asm.FnSockOpsCbFlagsSet.Call(),
			asm.Mov.Imm(asm.R0, 1),
			asm.Return(),
		},
	})
	check(t, err)
	t.Cleanup(func() { program.Close() })
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: ebpf.AttachCGroupSockOps, Program: program})
	check(t, err)
	t.Cleanup(func() { l.Close() })
}

// Where even the kernel tells our programs nothing (an MPTCP socket's own TCP
// socket has no release of its own), the agent counts the sockets that there
// are.
func TestCountsCorrectThemselves(t *testing.T) {
	n := newNode(t, options{})
	p := n.pod(t, steer, lab.PodOptions{})
	id, err := lab.CgroupID(p.Cgroup)
	check(t, err)
	hideEnds(t, filepath.Dir(n.Kubepods))
	namespaces := func(uint64) ([]string, error) { return []string{p.Netns()}, nil }
	all := func(uint64) bool { return true }
	defer n.occupy(t, p, p.Container, quota)()
	usage, err := ebpf.LoadPinnedMap(filepath.Join(n.pinDir(), "sidestep_usage"), nil)
	check(t, err)
	defer usage.Close()
	for _, tc := range []struct {
		what          string
		counted, want int64
	}{
		{"as it is", quota, quota},
		{"too many", 10 * quota, quota},
		{"far too few", -10 * quota, quota},
	} {
		check(t, usage.Update(id, tc.counted, ebpf.UpdateExist))
		check(t, n.hooks.CorrectUsage(all, namespaces))
		var got int64
		check(t, usage.Lookup(id, &got))
		if got != tc.want {
			t.Errorf("%s: %d is left as %d, want %d", tc.what, tc.counted, got, tc.want)
		}
	}
	check(t, n.hooks.CorrectUsage(func(uint64) bool { return false }, namespaces))
	if err := usage.Lookup(id, new(int64)); err == nil {
		t.Error("the count of a cgroup that is gone is kept")
	}
}

// again connects the socket to no address and to its destination, so often.
func (d dialing) again(fd int) error {
	for range d.Again {
		unspec := unix.RawSockaddr{Family: unix.AF_UNSPEC}
		if err := rawConnect(fd, &unspec); err != nil {
			return err
		}
		if err := d.establish(fd); err != nil {
			return err
		}
	}
	return nil
}
