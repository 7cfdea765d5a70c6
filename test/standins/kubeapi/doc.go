// Package kubeapi stands in for a Kubernetes API server where there is no
// cluster: lists and watches of one node's pods and of single service
// accounts, events, and a service account issuer with its keys. Real informers
// work against it. It refuses what the agent must not need: requests without a
// token, and lists without their field selector. The node rig does not use it,
// since it has the real one.
package kubeapi
