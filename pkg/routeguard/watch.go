package routeguard

import (
	"bytes"
	"context"
	"log/slog"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watchAgain is the pause after the kernel's notices could not be had.
const watchAgain = time.Second

// watch notes, until ctx ends, that something of our table's may have changed.
// Where the kernel's notices cannot be had it notes that all the time, with
// pauses.
func watch(ctx context.Context, changes chan<- struct{}, log *slog.Logger) {
	logged := false
	for ctx.Err() == nil {
		err := listen(ctx, changes)
		if ctx.Err() != nil {
			return
		}
		if !logged {
			log.Debug("no notices of changes to nftables", "err", err)
			logged = true
		}
		note(changes) // some may have been lost
		select {
		case <-time.After(watchAgain):
		case <-ctx.Done():
		}
	}
}

// listen returns why it could not go on.
func listen(ctx context.Context, changes chan<- struct{}) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return err
	}
	for {
		messages, err := conn.Receive()
		if err != nil {
			return err
		}
		for _, m := range messages {
			if changesOurs(m) {
				note(changes)
				break
			}
		}
	}
}

// changesOurs reports whether the message tells of something that was added to,
// changed in or removed from a table of our name, by this agent too. All messages
// on a node come by here: it looks no closer than it must.
func changesOurs(m netlink.Message) bool {
	switch uint16(m.Header.Type) & 0xff {
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_NEWRULE, unix.NFT_MSG_NEWSET, unix.NFT_MSG_NEWSETELEM,
		unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELSET, unix.NFT_MSG_DELSETELEM:
		return bytes.Contains(m.Data, []byte(tableName+"\x00"))
	}
	return false
}

func note(changes chan<- struct{}) {
	select {
	case changes <- struct{}{}:
	default:
	}
}
