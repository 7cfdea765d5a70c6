package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/status"
)

// tryAgainEvery is how often an agent that cannot serve tries to.
const tryAgainEvery = 3 * time.Second

// Run runs an agent until ctx ends and its clients have been asked to leave, or
// until one of its tasks fails. wrong is what is wrong with the flags: with it, or
// with anything else that keeps the agent from serving, pods are held.
func Run(ctx context.Context, o Options, wrong error, log *slog.Logger) error {
	a, err := await(ctx, o, wrong, log)
	if err != nil || a == nil {
		return err
	}
	defer a.close()
	for _, problem := range o.Problems {
		log.Warn("an environment variable is ignored", "err", problem)
	}
	log.Info("agent starts", "version", o.Version, "node", o.NodeName, "delivery", o.Delivery)
	if err := a.run(ctx); err != nil {
		return fmt.Errorf("agent ends: %w", err)
	}
	log.Info("agent ends")
	return nil
}

// await returns an agent that can serve. While something is wrong with what it
// was started with (wrong, or what makeRest finds out), the programs stay
// attached, the agent is not ready and says why, and it tries again. It returns
// nil when ctx ends first, and an error only if the programs cannot be
// attached.
func await(ctx context.Context, o Options, wrong error, log *slog.Logger) (*agent, error) {
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
	options Options
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
	if err := status.Announce(w.options.StateDir, w.options.Instance); err != nil {
		w.log.Warn("`agent status` does not find this agent", "err", err)
	}
}

// serve answers `agent status` and the readiness probe until stop is called.
func (w *waiting) serve(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := status.Serve(ctx, w.options.StateDir, w.options.Instance, w.report); err != nil && ctx.Err() == nil {
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
		Version: w.options.Version, Node: w.options.NodeName, Since: w.since, Delivery: w.options.Delivery, Guard: guard,
		Problems: []string{fmt.Sprintf("not ready: %s; pods are held until this is fixed", *w.why.Load())},
	}
}

func (w *waiting) end() {
	if w.stop != nil {
		w.stop()
	}
}
