// Command scale shows what many agents cost one API server. It starts a real
// etcd and a real kube-apiserver on loopback, makes pods that are bound to
// nodes without kubelets, and runs the agents' API side, the real
// podcache.Cache, each with a client and a connection of its own, in this one
// process. The number of nodes grows as far as the machine carries it; larger
// numbers are extrapolated, and the table says so.
//
// Of each number it prints what the apiserver's own metrics say at rest, and
// what came in after the apiserver was stopped and started again. The
// apiserver's audit log proves that no agent asks for other nodes' pods.
package main
