// Package delivery brings steered connections to the agent: it opens a
// listener in the network namespace of every steered pod and one on the node,
// keeps the kernel's verdicts equal to what the rules and the listeners say,
// and ends the connections that a verdict closes off. cmd/agent/daemon runs it. It
// never reads a byte of a connection and never decides whose it is.
package delivery
