package delivery

import (
	"context"
	"log/slog"

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

// followLinks follows what becomes of the links of the calling thread's network
// namespace, the node's; see follow.
func followLinks(ctx context.Context, log *slog.Logger) <-chan linkEvent {
	subscribe := func(updates chan<- netlink.LinkUpdate, done <-chan struct{}, failed func(error)) error {
		return netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{
			ReceiveBufferSize: eventsBuffer, ErrorCallback: failed,
		})
	}
	return follow(ctx, log, "link", subscribe, eventOf)
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
