package preflight

import "golang.org/x/sys/unix"

// Capability is one that the agent needs in effect.
type Capability struct {
	Name   string // "CAP_BPF"
	Number uint   // unix.CAP_BPF
}

var (
	capBPF        = Capability{"CAP_BPF", unix.CAP_BPF}                         // load programs, make maps
	capNetAdmin   = Capability{"CAP_NET_ADMIN", unix.CAP_NET_ADMIN}             // attach them; the node listener's address; the second line's table; end connections
	capReadSearch = Capability{"CAP_DAC_READ_SEARCH", unix.CAP_DAC_READ_SEARCH} // cgroups by id; tokens of pods
	capPerfmon    = Capability{"CAP_PERFMON", unix.CAP_PERFMON}                 // the verifier is stricter without it
	capSysAdmin   = Capability{"CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN}             // enter pods' network namespaces; has BPF and PERFMON in it
	capPtrace     = Capability{"CAP_SYS_PTRACE", unix.CAP_SYS_PTRACE}           // open /proc/<pid>/ns/net of pods
)

// NeededForPodDelivery returns what an agent that opens listeners in pods must
// be given; it needs no other. The manifests and the kernel tests give it
// exactly these.
func NeededForPodDelivery() []Capability {
	return []Capability{capNetAdmin, capSysAdmin, capPtrace, capReadSearch}
}

// NeededForNodeDelivery returns the same for an agent with one listener on
// the node.
func NeededForNodeDelivery() []Capability {
	return []Capability{capBPF, capPerfmon, capNetAdmin, capReadSearch}
}

// NeededForBootGuard returns the same for the boot guard, which attaches the
// programs and goes.
func NeededForBootGuard() []Capability {
	return []Capability{capBPF, capPerfmon, capNetAdmin}
}
