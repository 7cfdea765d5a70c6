// Package boot tests the boot guard with the agent's program: in a lab, beside
// the agent that lifts it, and as a unit of a systemd that boots. It is tests
// only; `make test-boot` runs it.
package boot
