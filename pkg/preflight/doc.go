// Package preflight tells whether this node can run the agent: one result for
// each thing that the agent needs, with what to do where it is missing. `agent
// check` prints it. It changes nothing but a scratch directory that it makes
// on the BPF filesystem and removes at once.
package preflight
