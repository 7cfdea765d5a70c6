// Package handover passes what a running agent holds to the one that replaces
// it: the listening sockets, as descriptors, the cached tokens, in memory
// alone, and the lock, which is the right to write the kernel's maps. Both
// meet at a socket in the state directory. cmd/agent/daemon calls it on both sides.
// It never looks into what it passes on, and writes none of it to disk.
package handover
