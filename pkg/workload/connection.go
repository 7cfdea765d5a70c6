package workload

import "net/netip"

// Connection names one accepted TCP connection as the kernel knows it.
type Connection struct {
	// NetnsCookie is the SO_NETNS_COOKIE of the listener's network namespace;
	// 0 for the node listener, whose callers live in namespaces of their own.
	NetnsCookie uint64
	Client      netip.AddrPort
	Server      netip.AddrPort
}

// Caller is the proven other end of a connection.
type Caller struct {
	PodUID string // as in Pod.UID
	// ContainerID is empty where the kernel's record names the pod's cgroup
	// alone.
	ContainerID string
	CgroupID    uint64
}

// CgroupRef is what a cgroup's path says: the pod, and the container if the
// cgroup belongs to one.
type CgroupRef struct {
	PodUID      string
	ContainerID string
}

// PodCgroup is one pod's cgroup as it stands below kubepods now.
type PodCgroup struct {
	UID        string
	CgroupID   uint64
	Path       string // absolute, below the cgroup mount
	Containers []ContainerCgroup
}

// ContainerCgroup is one container's cgroup. The sandbox's (pause) is one.
type ContainerCgroup struct {
	ContainerID string
	CgroupID    uint64
	Path        string
}
