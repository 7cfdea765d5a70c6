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
// ErrNoFlow. An ambiguous record is removed with an AmbiguousError. So are
// records of several layouts that do not say the same: which of them is the
// later cannot be seen.
func (h *Hooks) Claim(c workload.Connection) (uint64, error) {
	if !c.Client.Addr().Is4() || !c.Server.Addr().Is4() {
		return 0, ErrNoFlow // only IPv4 is ever steered
	}
	others, err := h.claimOthers(c)
	if err != nil {
		return 0, err
	}
	return claim(h.flows(), others, c)
}

// claim takes the record from flows; others are those of other layouts.
func claim(flows flowTable, others []commonFlow, c workload.Connection) (uint64, error) {
	found := others
	f, err := flows.take(flowKey(c))
	if err == nil {
		found = append(found, commonFlow{CgroupID: f.CgroupId, SocketCookie: f.SocketCookie, Ambiguous: f.Ambiguous})
	} else if !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, fmt.Errorf("take the flow record: %w", err)
	}
	if len(found) == 0 {
		return 0, ErrNoFlow
	}
	for _, f := range found {
		if f.Ambiguous != 0 || f.SocketCookie != found[0].SocketCookie || f.CgroupID != found[0].CgroupID {
			return 0, AmbiguousError{}
		}
	}
	return found[0].CgroupID, nil
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
