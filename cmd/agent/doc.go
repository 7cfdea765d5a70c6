// Command agent is the node agent of Sidestep. `agent run` is the DaemonSet's
// command; the others check a node, show what the agent on it does, put the
// boot guard on it, remove what agents leave there, and convert what
// aad-pod-identity had.
//
// It parses flags, makes the packages under pkg/ and tells each of those that
// it needs: none of them knows another. What it decides itself is when each of
// them works, from the first list of pods to the hand-over to another agent.
package main
