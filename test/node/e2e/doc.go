// Package e2e tests Sidestep on the node rig: the agent's image and manifests,
// real pods under Pod Security, unmodified clients. `make test-node` runs it.
// It uses the node that is up, or brings one up and takes it down again; it
// needs root. It is tests only.
package e2e
