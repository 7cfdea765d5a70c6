// Package imds stands in for a VM's instance metadata service, the node's
// managed identity included: a pod that reaches it gets a token with the
// node's object id, so that a leak shows in the token's claims, at the vault
// and in the log. It is as lenient about the spelling of paths as the real
// service was found to be, since a gateway before it must not rely on it.
// Tests, the demo and the node rig serve it over plain HTTP; it knows nothing
// of pods.
package imds
