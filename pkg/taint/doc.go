// Package taint takes the taint sidestep.dev/agent-not-ready from the agent's
// own node, so that pods are not put there before they can be steered.
// cmd/agent/daemon runs it once the agent is ready. It never adds a taint, and
// changes nothing else of the node.
package taint
