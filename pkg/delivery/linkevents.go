package delivery

import (
	"context"
	"log/slog"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linkEvent says that a link of the node's namespace came or changed.
type linkEvent struct {
	// pair is whether the link is one end of a pair of which the other end is
	// in another namespace, with the id nsid. Else what changed may be a link
	// that a pod's link is made on, or one that was moved into a pod.
	pair bool
	nsid int
}

const (
	// eventsBuffer is the size of the kernel's queue of events, in bytes. One
	// event takes some 1,500.
	eventsBuffer = 1 << 20
	// subscribePause is how soon it is tried again to subscribe.
	subscribePause = 100 * time.Millisecond
)

// followLinks sends what becomes of the links of the calling thread's network
// namespace, the node's, until ctx ends. Where events were lost, since their
// queue was full, or may have been, it sends one of no pair: what there is then
// must be looked at.
func followLinks(ctx context.Context, log *slog.Logger) <-chan linkEvent {
	events := make(chan linkEvent, 256)
	go func() {
		for ctx.Err() == nil {
			if err := followOnce(ctx, events); err != nil {
				log.Warn("link events were lost, all links are looked at", "err", err)
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
func followOnce(ctx context.Context, events chan<- linkEvent) (lost error) {
	updates, done := make(chan netlink.LinkUpdate), make(chan struct{})
	defer func() {
		close(done)
		for range updates { // until it is closed: whoever sends is not left waiting
		}
	}()
	failed := make(chan error, 1)
	err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{
		ReceiveBufferSize: eventsBuffer,
		ErrorCallback: func(err error) {
			select {
			case failed <- err:
			default:
			}
		},
	})
	if err != nil {
		close(updates)
		return err
	}
	// Whatever came before the subscription.
	if !send(ctx, events, linkEvent{}) {
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

func send(ctx context.Context, events chan<- linkEvent, e linkEvent) bool {
	select {
	case events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

// eventOf returns what an update of a link means to the guard; false: nothing.
func eventOf(u netlink.LinkUpdate) (linkEvent, bool) {
	if u.Family == unix.AF_BRIDGE { // a bridge's port, not a link
		return linkEvent{}, false
	}
	nsid := u.Link.Attrs().NetNsID
	if !isPair(u.Link) || nsid < 0 {
		return linkEvent{}, true
	}
	return linkEvent{pair: true, nsid: nsid}, u.Header.Type == unix.RTM_NEWLINK
}
