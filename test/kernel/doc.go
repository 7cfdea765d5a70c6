// Package kernel tests the programs in the kernel together with the packages
// that share its bytes: real programs, cgroups, namespaces and sockets, with
// only the cluster replaced by a list of pods. The tests need root and run in
// a lab (package lab).
package kernel
