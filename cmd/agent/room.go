package main

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/status"
)

// roomInterval is how often it is tried again to make a socket or a link in a
// state directory that is full.
const roomInterval = 2 * time.Second

// noRoom reports an error that says that the disk is full. Pods are served all
// the same: they need nothing on it.
func noRoom(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// serveStatus answers `agent status` and the readiness probe.
func (a *agent) serveStatus(ctx context.Context) error {
	return a.whenThereIsRoom(ctx, "the status socket cannot be made", func() error {
		return status.Serve(ctx, a.options.stateDir, a.options.instance, a.report)
	})
}

// announce makes this agent the one that `agent status` asks.
func (a *agent) announce() error {
	err := status.Announce(a.options.stateDir, a.options.instance)
	a.announced = err == nil
	if noRoom(err) {
		err = nil // keepAnnouncing goes on
	}
	return err
}

func (a *agent) keepAnnouncing(ctx context.Context) error {
	if a.announced {
		return nil
	}
	return a.whenThereIsRoom(ctx, "`agent status` does not find this agent", func() error {
		err := status.Announce(a.options.stateDir, a.options.instance)
		a.announced = err == nil
		return err
	})
}

// whenThereIsRoom does what needs room in the state directory until it had
// some, or ctx ends.
func (a *agent) whenThereIsRoom(ctx context.Context, otherwise string, do func() error) error {
	for logged := false; ; logged = true {
		err := do()
		if !noRoom(err) {
			return err
		}
		if !logged {
			a.log.Error("the state directory is full", "consequence", otherwise, "directory", a.options.stateDir, "err", err)
		}
		select {
		case <-time.After(roomInterval):
		case <-ctx.Done():
			return nil
		}
	}
}
