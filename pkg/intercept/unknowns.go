package intercept

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf/ringbuf"
)

// WatchUnknowns calls tell with the cgroup id of each caller that connects
// without a usable verdict, until ctx ends; then it returns nil. The kernel
// may leave callers out when it is faster than tell.
func (h *Hooks) WatchUnknowns(ctx context.Context, tell func(cgroupID uint64)) error {
	reader, err := ringbuf.NewReader(h.objects.SidestepUnknowns)
	if err != nil {
		return fmt.Errorf("open the ring buffer: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { reader.Close() })
	defer stop()
	defer reader.Close()
	for {
		record, err := reader.Read()
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the ring buffer: %w", err)
		}
		var event kernelUnknownEvent
		if err := binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &event); err != nil {
			return fmt.Errorf("decode an event: %w", err)
		}
		tell(event.CgroupId)
	}
}
