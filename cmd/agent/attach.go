package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/cgroups"
	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/status"
)

// tryAgainEvery is how often an agent that cannot serve tries to.
const tryAgainEvery = 3 * time.Second

// attachFirst attaches the programs before anything that may be wrong at a start is
// looked at, with every pod held that has no verdict yet. Settings of an
// earlier agent stay as they are until this one has its configuration. Where
// another agent serves, it has all of this in place.
func (a *agent) attachFirst() error {
	if a.lock == nil {
		return nil
	}
	kubepods := a.tree.KubepodsID()
	netns, err := delivery.ReserveNode(netip.AddrPort(a.options.listen).Addr())
	if err != nil {
		return err
	}
	if a.self != 0 {
		if err := a.hooks.SetVerdict(a.self, delivery.OwnEntry()); err != nil {
			return err
		}
	}
	configured, err := a.hooks.Configured()
	if err != nil {
		return err
	}
	if configured != kubepods {
		closed := a.options.settings(config.Held(), kubepods, netns)
		closed.NoNodeListener = true // there is no listener yet
		if closed.QoSIDs, err = cgroups.QoS(a.options.kubepodsCgroup); err != nil {
			return err
		}
		if err := a.hooks.Configure(closed); err != nil {
			return err
		}
	}
	if err := a.attachOwn(); err != nil {
		return err
	}
	guard, _ := a.options.effectiveGuard()
	if err := a.hooks.Attach(a.options.kubepodsCgroup, guard != guardOff); err != nil {
		return err
	}
	a.fresh = configured != kubepods
	return nil
}

// await returns an agent that can serve. While something is wrong with what it
// was started with (wrong, or what newAgent finds out), the programs stay
// attached, the agent is not ready and says why, and it tries again. It returns
// nil when ctx ends first, and an error only if the programs cannot be
// attached.
func await(ctx context.Context, o runOptions, wrong error, log *slog.Logger) (*agent, error) {
	w := waiting{options: o, log: log, since: time.Now()}
	defer w.end()
	for {
		a, err := newAttached(o, log)
		if err != nil {
			return nil, errors.Join(wrong, err)
		}
		if err = wrong; err == nil {
			err = a.makeRest()
		}
		if err == nil {
			return a, nil
		}
		w.tell(ctx, err, a.lock != nil)
		a.close() // another agent may be able to serve
		select {
		case <-time.After(tryAgainEvery):
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// waiting says why an agent does not serve, in the log and in its status.
type waiting struct {
	options runOptions
	log     *slog.Logger
	since   time.Time
	why     atomic.Pointer[string]
	stop    func() // ends the status socket; nil: there is none
}

func (w *waiting) tell(ctx context.Context, err error, alone bool) {
	why := err.Error()
	if before := w.why.Swap(&why); before == nil || *before != why {
		w.log.Error("the agent cannot serve; the programs are attached, and pods are held until this is fixed", "err", err)
	}
	if w.stop == nil {
		w.stop = w.serve(ctx)
	}
	if !alone {
		return // `agent status` asks the agent that serves
	}
	if err := status.Announce(w.options.stateDir, w.options.instance); err != nil {
		w.log.Warn("`agent status` does not find this agent", "err", err)
	}
}

// serve answers `agent status` and the readiness probe until stop is called.
func (w *waiting) serve(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := status.Serve(ctx, w.options.stateDir, w.options.instance, w.report); err != nil && ctx.Err() == nil {
			w.log.Error("the status socket cannot be made", "err", err)
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

func (w *waiting) report() status.Report {
	guard, _ := w.options.effectiveGuard()
	return status.Report{
		Version: version, Node: w.options.nodeName, Since: w.since, Delivery: w.options.delivery, Guard: guard,
		Problems: []string{fmt.Sprintf("not ready: %s; pods are held until this is fixed", *w.why.Load())},
	}
}

func (w *waiting) end() {
	if w.stop != nil {
		w.stop()
	}
}
