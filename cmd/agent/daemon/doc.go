// Package daemon is the running agent: it makes the packages under pkg/ and
// gives each of them those that it needs, since none of them knows another.
// What it decides itself is when each of them works, from the first list of pods
// to the hand-over to another agent. `agent run` calls Run, the boot guard's unit
// HoldAtBoot; flags and commands are cmd/agent's.
//
// To read it: start.go (programs first, then what may fail), agent.go (the
// parts), life.go (serve, take over, hand over, drain), kernel.go (what keeps the
// programs as they should be), report.go (what people are told).
package daemon
