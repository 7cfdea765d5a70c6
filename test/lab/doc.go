// Package lab makes a node on one machine without a cluster: a network
// namespace in which 169.254.169.254 is ours, a kubepods cgroup tree, a BPF
// filesystem, and pods that are real processes in cgroups and namespaces of
// their own. The kernel tests and the demo run in it. It is no part of the
// agent.
package lab
