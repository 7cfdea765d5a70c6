// Package azcli has what the az commands that the agent prints have in common.
// pkg/tokens (a diagnosis) and pkg/convert (a migration) write such commands,
// and both may name the same federated credential. It runs nothing and asks
// nobody.
package azcli
