package main

import (
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/preflight"
)

// neededCapabilities returns what the agent must be given; it needs no other.
// The manifest's list has the same reasons.
func neededCapabilities() []preflight.Capability {
	return []preflight.Capability{
		{Name: "CAP_BPF", Number: unix.CAP_BPF},                         // load programs, make maps
		{Name: "CAP_NET_ADMIN", Number: unix.CAP_NET_ADMIN},             // attach them; the node listener's address
		{Name: "CAP_SYS_ADMIN", Number: unix.CAP_SYS_ADMIN},             // enter pods' network namespaces
		{Name: "CAP_SYS_PTRACE", Number: unix.CAP_SYS_PTRACE},           // open /proc/<pid>/ns/net of pods
		{Name: "CAP_DAC_READ_SEARCH", Number: unix.CAP_DAC_READ_SEARCH}, // cgroups by id; tokens of pods
	}
}
