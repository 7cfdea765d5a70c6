// Package workload holds the values that the agent's parts hand to each
// other: who is calling, what the kernel shall do with a pod's connects, what
// is asked for in a pod's name, and where Azure's own services are. It decides
// nothing, reads nothing and imports no other package of this module, so that
// every other one may.
package workload
