package snapshot

import (
	"bytes"
	"context"
	"log/slog"
	"time"

	"k8s.io/utils/clock"
)

const (
	// interval is the least time between two writes: pods that start change
	// several times a second.
	interval = time.Second
	// retryInterval is the pause after a write that failed, if nothing changes
	// before.
	retryInterval = 30 * time.Second
)

// Source is what a snapshot is of.
type Source interface {
	// Export returns the content, the same bytes while nothing has changed; nil
	// if it has nothing yet that is worth keeping.
	Export() ([]byte, error)
	// Subscribe returns a channel that gets a value after a change, and the
	// function that ends the subscription.
	Subscribe() (<-chan struct{}, func())
}

// Keeper writes a file as its source changes. All fields are needed.
type Keeper struct {
	File   *File
	Source Source
	Clock  clock.Clock
	Log    *slog.Logger
}

// Run writes a snapshot now, after each change, but once a second at most, and
// when ctx ends if there was a change since; then it returns nil. What cannot
// be written is logged, and tried again.
func (k *Keeper) Run(ctx context.Context) error {
	changes, cancel := k.Source.Subscribe()
	defer cancel()
	s := &series{Keeper: k}
	for {
		s.keep()
		if !s.pause(ctx, changes) {
			s.keep()
			return nil
		}
	}
}

// series is what one Run has written.
type series struct {
	*Keeper
	last   []byte // as last written; nil: nothing
	failed bool   // to write what there was last
}

// pause waits until it is time to look again; false if ctx ends first.
func (s *series) pause(ctx context.Context, changes <-chan struct{}) bool {
	select {
	case <-s.Clock.After(interval):
	case <-ctx.Done():
		return false
	}
	var again <-chan time.Time
	if s.failed {
		again = s.Clock.After(retryInterval)
	}
	select {
	case <-changes:
	case <-again:
	case <-ctx.Done():
		return false
	}
	return true
}

// keep writes what there is if it is news.
func (s *series) keep() {
	content, err := s.Source.Export()
	if err == nil && (content == nil || bytes.Equal(content, s.last)) {
		return
	}
	if err == nil {
		err = s.File.Write(content, s.Clock.Now())
	}
	if err == nil {
		s.last, s.failed = content, false
		return
	}
	if !s.failed {
		s.Log.Warn("no snapshot can be kept: an agent that starts while the API server is down will know no pod", "err", err)
	}
	s.last, s.failed = nil, true
	// None is better than an old one: that may let a pod through which has
	// been steered since.
	if err := s.File.Remove(); err != nil {
		s.Log.Error("an old snapshot cannot be removed", "err", err)
	}
}
