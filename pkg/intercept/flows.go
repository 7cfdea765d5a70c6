package intercept

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// ErrNoFlow means that the kernel steered no such connection.
var ErrNoFlow = errors.New("no flow record for this connection")

// AmbiguousError means that two live sockets claimed the same connection, so
// that neither can be believed.
type AmbiguousError struct{}

func (AmbiguousError) Error() string { return "two sockets claim this connection" }

// Ambiguous marks the error for consumers that do not import this package.
func (AmbiguousError) Ambiguous() bool { return true }

// Claim takes the record of an accepted connection and returns the id of the
// cgroup that made it. It can be taken once: whoever asks again gets
// ErrNoFlow. An ambiguous record is removed with an AmbiguousError.
func (h *Hooks) Claim(c workload.Connection) (uint64, error) {
	if !c.Client.Addr().Is4() || !c.Server.Addr().Is4() {
		return 0, ErrNoFlow // only IPv4 is ever steered
	}
	var f kernelFlow
	err := h.objects.SidestepFlows.LookupAndDelete(flowKey(c), &f)
	switch {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return 0, ErrNoFlow
	case err != nil:
		return 0, fmt.Errorf("take the flow record: %w", err)
	case f.Ambiguous != 0:
		return 0, AmbiguousError{}
	}
	return f.CgroupId, nil
}

func flowKey(c workload.Connection) kernelFlowKey {
	return kernelFlowKey{
		NetnsCookie: c.NetnsCookie,
		ClientAddr:  addressWord(c.Client.Addr()),
		ServerAddr:  addressWord(c.Server.Addr()),
		ClientPort:  c.Client.Port(),
		ServerPort:  c.Server.Port(),
	}
}
