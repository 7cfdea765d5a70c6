// Package config reads the agent's configuration, in its file and as the API
// server tells it, and tells when it changes. The last valid version is kept for the next agent of the node. cmd/agent/daemon loads and
// watches it, and hands podcache the result; convert writes one in the same
// words. It checks everything before it gives anything out, and it never acts
// on a field.
package config
