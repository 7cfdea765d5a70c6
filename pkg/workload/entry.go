package workload

// Entry is what the kernel does for one cgroup, a pod's or a container's. Two
// entries are equal if the kernel does the same.
type Entry struct {
	Verdict Verdict
	// Port is that of a steered pod's listener on 127.0.0.1, in the network
	// namespace with the cookie NetnsCookie. 0 steers to the node listener.
	Port        uint16
	NetnsCookie uint64
	// DenyWireServer refuses Azure's wire server.
	DenyWireServer bool
	// Shared marks a pod of which some container passes: what leaves over its
	// link cannot be distinguished, and is not dropped there.
	Shared bool
	// Agent marks the agent's own pod, which may take the node listener's port.
	Agent bool
}
