// Command bench measures what the agent costs, each figure as a ratio to a
// baseline of the same run, prints one table and exits with status 1 where a
// target is missed. The agent's own program runs in a scene (see test/scene)
// with real BPF programs, cgroups, namespaces and sockets; Entra and the
// Kubernetes API are stand-ins. Sides take turns in short blocks, and what is
// compared is the median of the blocks' ratios: the machines that this runs on
// are noisy, but both sides of a ratio hear the same noise.
package main
