// Package podcache answers which pods this node has, what the rules say about
// each, and as whom it runs. Delivery, attest and status ask it. It watches the
// pods of this node, the service accounts they use, one by one, and, where the
// configuration honours them, AzurePodIdentityException objects; Kubernetes
// objects stop here, and callers get values of package workload. What it knows
// can be exported, for a cache that starts while the API server does not answer.
// It never writes to the API, reads no token and touches no kernel state.
package podcache
