// Package workload holds the values that the agent's parts hand to each
// other: who is calling, what the kernel shall do with a pod's connects, and
// what is asked for in a pod's name. It decides nothing, reads nothing and
// imports no other package of this module, so that every other one may.
package workload
