package delivery

import (
	"log/slog"
	"net"
	"syscall"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Kernel is where verdicts are applied.
type Kernel interface {
	SetVerdict(cgroupID uint64, e workload.Entry) error
	DeleteVerdict(cgroupID uint64) error
	// Decided returns the cgroups that have a verdict, an earlier agent's too.
	Decided() ([]uint64, error)
	// Tag marks a listening socket as the agent's own.
	Tag(syscall.RawConn) error
	// GuardLink and UnguardLink say which links of the node are pods' and are
	// to be guarded as the pod's verdict says.
	GuardLink(ifindex int, podCgroupID uint64) error
	UnguardLink(ifindex int) error
	// GuardedLinks returns the links that are guarded, an earlier agent's too.
	GuardedLinks() ([]int, error)
}

// Line is the second line of the guard, where the node routes.
type Line interface {
	// SetLinks says what the links of all pods may send. When it returns nil,
	// those that may do so send.
	SetLinks([]workload.PodLink) error
}

// Pods is what the rules say about this node's pods.
type Pods interface {
	Pods() []workload.Pod
	// Pod returns what they say about one, by its UID; false if nothing.
	Pod(uid string) (workload.Pod, bool)
	Subscribe() (changes <-chan struct{}, cancel func())
}

// Cgroups is what runs on this node.
type Cgroups interface {
	Snapshot() []workload.PodCgroup
	Subscribe() (changes <-chan struct{}, cancel func())
	Processes(path string) ([]int, error)
	// Resolve returns whose cgroup an id is; an error for those of no pod.
	Resolve(id uint64) (workload.CgroupRef, error)
}

// PortRange bounds the ports of pods' listeners, both ends included.
type PortRange struct{ First, Last uint16 }

// Options are what a Reconciler works with. All fields are needed, but for
// Pace, Line and Self.
type Options struct {
	Kernel  Kernel
	Pods    Pods
	Cgroups Cgroups
	// Serve takes an accepted connection over and closes it. netnsCookie is
	// that of the listener's namespace, 0 for the node listener. It is called
	// on a goroutine of its own.
	Serve func(c net.Conn, netnsCookie uint64)
	// Pace returns, for a new listener of a pod's, what it calls before each
	// accept: it returns when the next connection may be accepted. Nil: at once.
	Pace func() (wait func())
	// Proc is the host's procfs.
	Proc string
	// Ports are tried for pods' listeners.
	Ports PortRange
	// NodeOnly steers every pod to the node listener and opens no other.
	NodeOnly bool
	// GuardLinks has the links of pods that do not pass guarded.
	GuardLinks bool
	// Line gets what the pods' links may send, a pod that passes before its
	// verdict is set. Nil: there is none. It needs GuardLinks.
	Line Line
	// Self is the cgroup of the agent's own pod, which always passes: its
	// relay must reach the real metadata service. 0: it runs outside of pods.
	Self uint64
	Log  *slog.Logger
}
