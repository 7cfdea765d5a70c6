// Package handover has the agent's program replaced again and again while
// clients that never try twice ask for tokens.
package handover
