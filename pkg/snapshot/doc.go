// Package snapshot keeps a file in the state directory from which an agent can
// start while the API server does not answer. cmd/agent/daemon reads it, and has the
// agent that holds the lock write it. It knows for whom a snapshot holds (this
// node, this boot, this form) and whether it is whole; what is in it is its
// source's, and must have no secret. It never changes what it reads.
package snapshot
