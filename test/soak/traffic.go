package main

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sidestep-agent/sidestep/test/load"
	"github.com/sidestep-agent/sidestep/test/scene"
)

const (
	workers = 4 // of each kind, in each pod; one of them is mostly idle
	idle    = 1500 * time.Millisecond
	// leastRate is what the idle clients alone nearly make.
	leastRate = 20
)

// traffic has every standing pod ask all the time, half of the clients on
// connections that they keep, half on one each time. The function ends it, by a
// file below home, and counts the results.
func traffic(home string, standing []*scene.Workload, rate int, r *record) (end func() error, err error) {
	dir, err := os.MkdirTemp(home, "enough-")
	if err != nil {
		return nil, err
	}
	until := filepath.Join(dir, "enough")
	var group errgroup.Group
	for _, w := range standing {
		of := steered
		if whose(w) == clientID(ofNode, 0) {
			of = passing
		}
		for _, keep := range []bool{true, false} {
			group.Go(func() error {
				t, err := w.Ask(context.Background(), until, load.Options{
					Keep: keep, Workers: workers, Every: interval(rate, 2*len(standing)), Idle: idle, Client: whose(w),
				})
				r.add(of, t)
				return err
			})
		}
	}
	return func() error {
		defer func() { _ = os.RemoveAll(dir) }()
		if err := os.WriteFile(until, nil, 0o600); err != nil {
			return err
		}
		return group.Wait()
	}, nil
}

// interval returns how often a busy worker asks, where all groups together ask
// rate times a second.
func interval(rate, groups int) time.Duration {
	each := float64(rate)/float64(groups) - float64(time.Second)/float64(idle)
	return time.Duration((workers - 1) / each * float64(time.Second))
}
