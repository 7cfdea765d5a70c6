package handover

import (
	"errors"
	"net"
)

// Role says what a listener is for.
type Role string

// The roles.
const (
	Node    Role = "node"
	Pod     Role = "pod"
	Metrics Role = "metrics"
)

// Listener is a listening socket with what the successor must know to use it.
type Listener struct {
	Role Role `json:"role"`
	// Address is the one that was asked for, as it was written.
	Address string `json:"address,omitempty"`
	// PodUID and Inode, that of its network namespace, are of a pod's listener;
	// Inode is 0 for a pod on the host's network.
	PodUID string `json:"podUid,omitempty"`
	Inode  uint64 `json:"inode,omitempty"`

	net.Listener `json:"-"`
}

// State is what one agent passes to the next.
type State struct {
	Listeners []Listener
	// Tokens are opaque here, and secret.
	Tokens [][]byte
	// Version is that of the hand-over by which Take got it; Offer ignores it.
	Version int
}

// Close closes the listeners.
func (s *State) Close() error {
	var errs []error
	for _, l := range s.Listeners {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}
