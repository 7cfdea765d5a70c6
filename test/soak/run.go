package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sidestep-agent/sidestep/test/load"
	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/imds"
)

const (
	// warmUp is the short stretch of churn before the baseline.
	warmUp = 10 * time.Second
	// outlive is how many times the pods of the warm-up the last agent sees come
	// and go: what leaks must show above what leaked before the baseline. On a
	// busy machine that takes longer than was asked for, by extraTime at most.
	outlive   = 3
	extraTime = 10 * time.Minute
	// settle is longer than the agent keeps anything of what is gone: tokens
	// of a service account that no pod uses for two minutes, looked at every
	// half; watches and the kernel's counters for one; idle connections to
	// Entra for a minute and a half after the last refresh (refreshIn).
	settle    = 165 * time.Second
	refreshIn = 45 * time.Second
	// drainLimit is when what is left has been left behind.
	drainLimit = settle + time.Minute
	drainLook  = 2 * time.Second
)

// soak makes one run, in a lab.
func soak(ctx context.Context, o options, progress io.Writer) (_ result, err error) {
	say := func(format string, args ...any) { fmt.Fprintf(progress, "soak: "+format+"\n", args...) }
	s, standing, err := openScene(ctx, o.agent)
	if err != nil {
		return result{}, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, s.Agent.LastWords())
		}
		err = errors.Join(err, s.Close())
	}()
	run := &run{scene: s, standing: standing, rate: o.rate}
	if err := s.Upgrade(ctx); err != nil {
		return result{}, err
	}
	say("an agent has taken over; %s of churn, then it rests for %s", warmUp, settle)
	if err := run.stir(ctx, warmUp, 1, false); err != nil {
		return result{}, err
	}
	if !pause(ctx, settle) {
		return result{}, ctx.Err()
	}
	r := result{Took: o.duration}
	if r.Before, err = measure(ctx, s); err != nil {
		return result{}, err
	}
	say("the baseline is taken; %s of churn", o.duration)
	if err := run.stir(ctx, o.duration, outlive*run.record.pods(), true); err != nil {
		return result{}, err
	}
	say("churn and load have ended; the agent has %s to let go", drainLimit)
	if r.After, err = drain(ctx, s, r.Before); err != nil {
		return result{}, err
	}
	r.Counts, r.Notes = run.record.counts, run.record.notes
	return r, run.checkIMDS()
}

// run is what a run works with.
type run struct {
	scene    *scene.Scene
	standing []*scene.Workload
	rate     int
	record   record
}

// stir has everything happen at the same time. In the first two thirds of the
// time the agent is replaced, with restarts; after that so many pods come and go
// at the least.
func (r *run) stir(ctx context.Context, lasts time.Duration, pods int, restarts bool) error {
	end, err := traffic(r.scene.Home, r.standing, r.rate, &r.record)
	if err != nil {
		return err
	}
	up := &upheaval{scene: r.scene, standing: r.standing, record: &r.record, configure: r.scene.Agent.WriteConfig}
	longest := lasts / 10 // of a fault, so that there are several
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return up.breakEntra(ctx, longest) })
	group.Go(func() error { return up.reload(ctx) })
	group.Go(func() error {
		defer stop()
		timer := time.After(lasts)
		if restarts {
			ctx, cancel := context.WithTimeout(ctx, lasts*2/3)
			defer cancel()
			if err := up.restart(ctx); err != nil {
				return err
			}
		}
		return r.outlast(ctx, timer, r.record.pods()+pods)
	})
	for n := range churners {
		c := churner{scene: r.scene, record: &r.record, number: n}
		group.Go(func() error { return c.run(ctx) })
	}
	return errors.Join(group.Wait(), end())
}

// outlast waits for the timer, and until so many pods have come and gone.
func (r *run) outlast(ctx context.Context, timer <-chan time.Time, pods int) error {
	select {
	case <-timer:
	case <-ctx.Done():
		return nil // another part of the run tells why
	}
	for deadline := time.Now().Add(extraTime); r.record.pods() < pods; {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d pods have come and gone, want %d: the machine is too busy", r.record.pods(), pods)
		}
		if !pause(ctx, time.Second) {
			return nil
		}
	}
	return nil
}

// drain waits until all is as it was, or the time for it is over, and returns
// what there is then.
func drain(ctx context.Context, s *scene.Scene, before figures) (figures, error) {
	for deadline := time.Now().Add(drainLimit); ; {
		after, err := measure(ctx, s)
		if err != nil {
			return nil, err
		}
		if len(compare(before, after)) == 0 || time.Now().After(deadline) {
			return after, nil
		}
		if !pause(ctx, drainLook) {
			return nil, ctx.Err()
		}
	}
}

// errReached is what must never be.
var errReached = errors.New("a steered pod has asked the node's metadata service for an identity")

// checkIMDS fails if the metadata service itself was asked for an identity by
// another than a pod that passes, or by none at all.
func (r *run) checkIMDS() error {
	log, err := scene.Entries[imds.Entry](&r.scene.Cloud.Logs.IMDS)
	if err != nil {
		return err
	}
	seen := 0
	for _, e := range log {
		if !e.Identity {
			continue
		}
		asked, err := url.Parse(e.URI)
		if err != nil {
			return err
		}
		if client := asked.Query().Get(load.Asker); client != clientID(ofNode, 0) {
			return fmt.Errorf("%w: the client %s, at %s", errReached, client, e.Time)
		}
		seen++
	}
	if seen == 0 {
		return errors.New("no pod that passes has reached the metadata service")
	}
	return nil
}
