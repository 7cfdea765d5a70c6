// Package commands has what the shell commands have in common that the agent
// and its plugin print for people to run. pkg/tokens (a diagnosis), pkg/convert
// (a migration) and cmd/kubectl-sidestep write such commands, and two of them
// may name the same federated credential, or label the same pods. It runs
// nothing and makes no requests.
package commands
