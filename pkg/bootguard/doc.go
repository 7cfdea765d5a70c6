// Package bootguard puts the boot guard on a host and removes it: a systemd
// unit that runs the agent's program before the kubelet, so that no pod of a
// node that boots has a way to the node's identity before the agent runs.
// cmd/agent/daemon calls it, in the container that installs the unit, in the agent
// that keeps the unit's configuration, and to uninstall. It never loads or
// attaches a program, and it starts no unit: what it writes takes effect at
// the next boot.
package bootguard
