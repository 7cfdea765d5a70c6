package intercept

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	sweepInterval = time.Minute
	// A connection is accepted within moments or never: its listener's queue
	// ends with the listener. More than bpf/flow.h's TAKEN_WITHIN_NS, after which
	// a record that is missing proves nothing.
	flowAge = 5 * time.Minute
)

// Sweep removes, once a minute until ctx ends, what the kernel side may leave
// behind: flows that were not accepted and whose end another program's sockops
// hid from ours, counts that are wrong (CorrectUsage), and what is left of
// other layouts (RemoveDrained).
func (h *Hooks) Sweep(ctx context.Context, exists func(cgroupID uint64) bool,
	namespaces func(cgroupID uint64) ([]string, error),
) error {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := errors.Join(h.sweepFlows(flowAge), h.CorrectUsage(exists, namespaces), h.RemoveDrained(exists)); err != nil {
			h.log.Warn("sweep of the maps is incomplete", "err", err)
		}
	}
}

func (h *Hooks) sweepFlows(age time.Duration) error {
	now, err := monotonic()
	if err != nil {
		return err
	}
	return sweepFlows(h.flows(), now, age)
}

// monotonic returns the time of the clock by which flows are dated.
func monotonic() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return time.Duration(now.Nano()), nil
}

// sweepFlows removes the records that are older; now is of the clock that they
// bear.
func sweepFlows(flows flowTable, now, age time.Duration) error {
	var stale []kernelFlowKey
	err := flows.each(func(key kernelFlowKey, f kernelFlow) {
		if now-time.Duration(f.CreatedNs) > age {
			stale = append(stale, key)
		}
	})
	return errors.Join(err, removeAll(flows, stale))
}
