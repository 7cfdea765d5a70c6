package workload

import "net/netip"

// Azure's own services, at the same addresses on every VM; bpf/services.h has
// them for the kernel side.
var (
	// IMDS is the instance metadata service.
	IMDS = netip.MustParseAddr("169.254.169.254")
	// WireServer has goal state and certificates, and the host plugin.
	WireServer = netip.MustParseAddr("168.63.129.16")
)

// WireServerPorts returns the TCP ports of the wire server that pods can be
// denied: its DNS is not one of them.
func WireServerPorts() []uint16 { return []uint16{80, 32526} }
