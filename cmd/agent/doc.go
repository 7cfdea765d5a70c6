// Command agent is the node agent of Sidestep. `agent run` is the DaemonSet's
// command; the others check a node, show what the agent on it does, put the
// boot guard on it, remove what agents leave there, and convert what
// aad-pod-identity had.
//
// It is flags and commands alone. The running agent is cmd/agent/daemon.
package main
