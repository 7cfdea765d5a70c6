package workload

// PodLink is one link of a pod's, named by its end on the node, with what may
// be sent over it. The zero value of what may be sent is nothing.
type PodLink struct {
	Ifindex int
	// IMDS lets through what goes to the instance metadata service.
	IMDS bool
	// WireServer lets through what goes to Azure's wire server.
	WireServer bool
}
