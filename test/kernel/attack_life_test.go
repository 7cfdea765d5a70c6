package kernel

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/lab"
)

// lifeAttacks use the moments in which a pod begins, ends, or is not what it
// seems.
func lifeAttacks() []attack {
	return []attack{
		{
			name: "pod deleted, its process lives on", expected: always(held),
			defence: "pods must be known", success: ownIdentity, run: orphan,
		},
		{
			name: "pod deleted while it asks", expected: always(held),
			defence: "second look at the pod", success: ownIdentity, run: deletedMeanwhile,
		},
		{
			name: "cgroup recreated under the same path", expected: always(held),
			defence: "cgroup ids", success: ownIdentity, run: recreatedMeanwhile,
		},
		{
			name: "pod not known yet", expected: allGuards(held),
			defence: "unknown pods are held", success: nodeIdentity, without: guardOff, run: notKnownYet,
		},
		{
			name: "process moved out of its pod", expected: allGuards(held),
			defence: "unknown pods are held", success: nodeIdentity, without: guardOff, run: movedOut,
		},
		{
			name: "cgroups of the container's own", expected: allGuards(ownIdentity),
			defence: "connect hooks", success: nodeIdentity, without: guardOff, run: ownCgroups,
		},
		{
			name: "listener in another namespace", expected: allGuards(ownIdentity),
			defence: "netns of the caller", success: eperm, run: otherNamespace,
		},
	}
}

func orphan(t *testing.T, _ guardMode) string {
	n := newNode(t, options{})
	p := n.pod(t, steer, lab.PodOptions{})
	n.pods.remove(p.UID)
	n.settled(t, p.Cgroup, workload.Unknown)
	return seenBy(p, dialFrom(t, p, dialing{To: imds}))
}

func deletedMeanwhile(t *testing.T, _ guardMode) string {
	n := newNode(t, options{})
	p := n.pod(t, steer, lab.PodOptions{})
	n.beforeAnswer(func() { n.pods.remove(p.UID) })
	return seenBy(p, dialFrom(t, p, dialing{To: imds}))
}

// recreatedMeanwhile ends the pod while a process of the node, which was in
// it, waits for the answer; a cgroup of the same path then belongs to the next
// pod with that UID, as a static pod's does.
func recreatedMeanwhile(t *testing.T, _ guardMode) string {
	n := newNode(t, options{})
	p := n.pod(t, steer, lab.PodOptions{HostNetwork: true})
	n.beforeAnswer(func() {
		check(t, moveAll(p.Container, filepath.Dir(filepath.Dir(n.Kubepods))))
		check(t, p.Stop())
		check(t, os.MkdirAll(p.Container, 0o755))
	})
	return seenBy(p, dialFrom(t, p, dialing{To: imds}))
}

func notKnownYet(t *testing.T, guard guardMode) string {
	n := newNode(t, options{guard: guard})
	p := n.stranger(t, lab.PodOptions{})
	return seenBy(p, dialFrom(t, p, dialing{To: imds}))
}

// movedOut has a process leave its pod's cgroup for one between kubepods and
// the pods.
func movedOut(t *testing.T, guard guardMode) string {
	n := newNode(t, options{guard: guard})
	p := n.pod(t, steer, lab.PodOptions{})
	return seenBy(p, dialIn(t, p, filepath.Dir(p.Cgroup), dialing{To: imds}))
}

func ownCgroups(t *testing.T, guard guardMode) string {
	n := newNode(t, options{guard: guard})
	p := n.pod(t, steer, lab.PodOptions{})
	deep := filepath.Join(p.Container, "one", "two", "three")
	check(t, os.MkdirAll(deep, 0o755))
	return seenBy(p, dialIn(t, p, deep, dialing{To: imds}))
}

// beforeAnswer has what happen between the proof of who calls and the answer.
func (n *node) beforeAnswer(what func()) {
	n.instead.Store(func(c net.Conn, cookie uint64) { n.answerAfter(c, cookie, what) })
}

// moveAll moves the processes of a cgroup to another.
func moveAll(from, to string) error {
	pids, err := os.ReadFile(filepath.Join(from, "cgroup.procs"))
	if err != nil {
		return err
	}
	for _, pid := range strings.Fields(string(pids)) {
		if err := os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte(pid), 0); err != nil {
			return err
		}
	}
	return nil
}
