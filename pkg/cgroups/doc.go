// Package cgroups answers which pod a cgroup belongs to, and which pods'
// cgroups stand below the node's kubepods cgroup now. The agent asks it for
// the identity behind a cgroup id that the kernel recorded, for the cgroups
// that verdicts are written for, and for a pod's processes. It knows paths and
// ids only: it never asks Kubernetes what a pod is, and it never changes a
// cgroup.
package cgroups
