// Package scene sets a lab's node (see test/lab) with all that takes part on a
// real one: the agent's own program, pods with service accounts, and stand-ins
// for the Kubernetes API and for what exists only in Azure. The demo and the
// suite of real clients play in it. It judges nothing that happens there.
package scene
