package delivery

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
)

const (
	// eventsBuffer is the size of the kernel's queue of events, in bytes. One
	// event takes some 1,500.
	eventsBuffer = 1 << 20
	// subscribePause is how soon it is tried again to subscribe.
	subscribePause = 100 * time.Millisecond
)

// subscribeFunc has the kernel's updates sent until done is closed, and then
// closes the channel. It calls failed with why there are no more.
type subscribeFunc[U any] func(updates chan<- U, done <-chan struct{}, failed func(error)) error

// follow sends what eventOf makes of the kernel's updates until ctx ends. Where
// some were lost, since their queue was full, or may have been, it sends the zero
// event: what there is then must be looked at.
func follow[U, E any](
	ctx context.Context, log *slog.Logger, what string, subscribe subscribeFunc[U], eventOf func(U) (E, bool),
) <-chan E {
	events := make(chan E, 256)
	go func() {
		for ctx.Err() == nil {
			if err := followOnce(ctx, events, subscribe, eventOf); err != nil {
				log.Warn("events were lost, all is looked at", "err", fmt.Errorf("%s events: %w", what, err))
			}
			select {
			case <-ctx.Done():
			case <-time.After(subscribePause):
			}
		}
	}()
	return events
}

// followOnce follows one subscription until it fails, or ctx ends.
func followOnce[U, E any](
	ctx context.Context, events chan<- E, subscribe subscribeFunc[U], eventOf func(U) (E, bool),
) (lost error) {
	updates, done := make(chan U), make(chan struct{})
	defer func() {
		close(done)
		for range updates { // until it is closed: whoever sends is not left waiting
		}
	}()
	failed := make(chan error, 1)
	err := subscribe(updates, done, func(err error) {
		select {
		case failed <- err:
		default:
		}
	})
	if err != nil {
		close(updates)
		return err
	}
	var unknown E // whatever came before the subscription
	if !send(ctx, events, unknown) {
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case u, ok := <-updates:
			if !ok {
				return <-failed
			}
			if e, ok := eventOf(u); ok && !send(ctx, events, e) {
				return nil
			}
		}
	}
}

func send[E any](ctx context.Context, events chan<- E, e E) bool {
	select {
	case events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

// followAddresses sends the addresses that the links of the calling thread's
// network namespace lose; see follow.
func followAddresses(ctx context.Context, log *slog.Logger) <-chan netip.Addr {
	subscribe := func(updates chan<- netlink.AddrUpdate, done <-chan struct{}, failed func(error)) error {
		return netlink.AddrSubscribeWithOptions(updates, done, netlink.AddrSubscribeOptions{
			ReceiveBufferSize: eventsBuffer, ErrorCallback: failed,
		})
	}
	return follow(ctx, log, "address", subscribe, lostAddress)
}

// lostAddress returns the address that a link has lost; false if it got it.
func lostAddress(u netlink.AddrUpdate) (netip.Addr, bool) {
	addr, ok := netip.AddrFromSlice(u.LinkAddress.IP)
	return addr.Unmap(), ok && !u.NewAddr
}
