// Package routeguard keeps the second line of the guard: where the node routes,
// nothing reaches the instance metadata service, or a denied wire server, but
// what came over the link of a pod that may. It is one nftables table, which
// outlives the agent. cmd/agent/daemon calls it, and tells it which links are whose;
// it never looks at pods, and touches no table but its own.
package routeguard
