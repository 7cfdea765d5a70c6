package workload

// Leftover is something of the agent's that stays on the node when its process
// ends, and that `agent uninstall` removes.
type Leftover struct {
	// What names it to a person, as in "pin /sys/fs/bpf/sidestep/link_sockops".
	What string
	// Remove removes it. To do so when it is gone already is no error.
	Remove func() error
}
