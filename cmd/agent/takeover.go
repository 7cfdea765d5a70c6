package main

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/handover"
)

// askAgain is the first pause after a running agent has not handed over, and
// askAtLeast the longest: one that speaks another version will not.
const (
	askAgain   = 500 * time.Millisecond
	askAtLeast = 8 * time.Second
)

// acquire takes the lock if no other agent has it.
func (a *agent) acquire() (err error) {
	a.lock, err = handover.Acquire(a.options.stateDir)
	if errors.Is(err, handover.ErrHeld) {
		return nil
	}
	return err
}

// takeOver gets the lock and what belongs to it: from the agent that has
// them, once this one could serve in its place, or by itself where there is
// none.
func (a *agent) takeOver(ctx context.Context) error {
	var state *handover.State
	if a.lock == nil {
		a.log.Info("another agent serves; taking over once all is known")
		if err := a.awaitTurn(ctx); err != nil {
			return err
		}
		var err error
		if state, err = a.succeed(ctx); err != nil {
			return err
		}
		// Others may have come and gone since this agent's start.
		if err := a.hooks.LookForOthers(); err != nil {
			return err
		}
	}
	if err := a.announce(); err != nil {
		return err
	}
	var pods []delivery.ExportedListener
	if state != nil {
		pods = a.inherit(state)
	}
	if err := a.openOwn(ctx); err != nil {
		return err
	}
	a.delivery.Adopt(pods)
	return nil
}

// awaitTurn waits until everything is known that it takes to serve, or no agent serves.
// While somebody does, a snapshot is not good enough: he knows more than that.
func (a *agent) awaitTurn(ctx context.Context) error {
	until, come := context.WithCancel(ctx)
	defer come()
	go func() {
		if waitFor(until, a.pods.Ready(), a.tree.Ready()) {
			come()
		}
	}()
	err := handover.Vacant(until, a.options.stateDir)
	if until.Err() != nil {
		return ctx.Err()
	}
	return err
}

// succeed asks the running agent until it hands over, or is gone without
// having done so. The state is nil then.
func (a *agent) succeed(ctx context.Context) (*handover.State, error) {
	for pause := askAgain; ; pause = min(2*pause, askAtLeast) {
		lock, state, err := handover.Take(ctx, a.options.stateDir)
		if err == nil {
			a.lock = lock
			return state, nil
		}
		if takeErr := a.acquire(); takeErr != nil || a.lock != nil {
			return nil, takeErr
		}
		a.log.Warn("the running agent has not handed over", "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// inherit takes what of the state this agent would have made itself, and
// returns the pods' listeners. The rest is closed.
func (a *agent) inherit(state *handover.State) (pods []delivery.ExportedListener) {
	for _, l := range state.Listeners {
		switch {
		case l.Role == handover.Pod:
			pods = append(pods, delivery.ExportedListener{PodUID: l.PodUID, Inode: l.Inode, Listener: l.Listener})
			continue
		case l.Role == handover.Metrics && l.Address == a.options.metricsAddress:
			a.metrics.Store(&l.Listener)
			continue
		case l.Role == handover.Node && l.Address == a.options.listen.String():
			node, err := delivery.AdoptNode(a.hooks, l.Listener, a.log)
			if err == nil {
				a.node = node
				continue
			}
			a.log.Warn("the node listener cannot be taken over", "err", err)
		}
		_ = l.Close()
	}
	inUse := slices.Collect(maps.Values(a.accountsInUse()))
	known := func(uid string) bool { return slices.Contains(inUse, uid) }
	tokens, err := a.tokens.Import(state.Tokens, known)
	if err != nil {
		a.log.Warn("not all cached tokens were taken over", "err", err)
	}
	a.log.Info("taken over from another agent", "pod_listeners", len(pods), "tokens", tokens, "handover_version", state.Version)
	return pods
}

// openOwn opens what was not taken over.
func (a *agent) openOwn(ctx context.Context) (err error) {
	if a.self != 0 {
		// Programs that an earlier agent attached keep others from the port.
		if err := a.hooks.SetVerdict(a.self, delivery.OwnEntry()); err != nil {
			return err
		}
	}
	if a.node == nil {
		if a.node, err = delivery.ListenNode(a.hooks, netip.AddrPort(a.options.listen), a.log); err != nil {
			return err
		}
	}
	if a.metrics.Load() == nil {
		err = a.openMetrics(ctx)
	}
	close(a.tookOver)
	return err
}

// handoverState returns what a successor gets.
func (a *agent) handoverState() handover.State {
	var state handover.State
	if l := a.node.Listener(); l != nil {
		state.Listeners = append(state.Listeners, handover.Listener{
			Role: handover.Node, Address: a.options.listen.String(), Listener: l,
		})
	}
	if l := a.metrics.Load(); l != nil {
		state.Listeners = append(state.Listeners, handover.Listener{
			Role: handover.Metrics, Address: a.options.metricsAddress, Listener: *l,
		})
	}
	for _, h := range a.delivery.Export() {
		state.Listeners = append(state.Listeners, handover.Listener{
			Role: handover.Pod, PodUID: h.PodUID, Inode: h.Inode, Listener: h.Listener,
		})
	}
	var err error
	if state.Tokens, err = a.tokens.Export(); err != nil {
		a.log.Warn("the cached tokens are not handed over", "err", err)
	}
	return state
}
