package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/sidestep-agent/sidestep/pkg/config"
)

// taskFunc works until its context ends.
type taskFunc func(context.Context) error

// start runs the tasks in the group. An error after ctx has ended is none.
func start(ctx context.Context, group *errgroup.Group, tasks map[string]taskFunc) {
	for name, task := range tasks {
		group.Go(func() error {
			if err := task(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
}

// run runs every task until one fails, or ctx ends and the clients have been
// asked to leave.
func (a *agent) run(ctx context.Context) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	tasks, life := errgroup.WithContext(life)
	start(life, tasks, map[string]taskFunc{
		"pods":          a.pods.Run,
		"cgroups":       a.tree.Run,
		"configuration": a.watchConfig,
		"broker":        a.broker.Run,
		"warm-up":       a.warmUp,
		"warm pods":     a.warmPods,
		"accounts":      a.followAccounts,
		"witness":       a.witness,
		"metrics":       a.serveMetrics,
		"events":        a.events.Run,
		"taint":         a.removeTaint,
		"traces":        a.sendTraces,
		"status":        a.serveStatus,
		"service": func(life context.Context) error {
			err := a.serve(ctx, life)
			if err == nil {
				end()
			}
			return err
		},
	})
	return tasks.Wait()
}

// writers are the tasks of the agent that holds the lock.
func (a *agent) writers() map[string]taskFunc {
	return map[string]taskFunc{
		"announcement": a.keepAnnouncing,
		"snapshot":     a.keepSnapshot,
		"last config":  a.watcher.Keep,
		"delivery":     a.deliver,
		"kernel":       a.attach,
		"second line":  a.keepLine,
		"node's label": a.followLabel,
		"unknown pods": a.watchUnknowns,
		"map sweep":    a.sweep,
		"unguarded":    a.tellUnguarded,
		"refresh":      a.tokens.Run,
		"boot guard":   a.keepBootConfig,
		"exposed pods": a.tellExposed,
	}
}

// handleConn hands an accepted connection to the broker. It is here because
// listeners open before the broker is made.
func (a *agent) handleConn(c net.Conn, netnsCookie uint64) { a.broker.HandleConn(c, netnsCookie) }

// deliver starts only when all pods and cgroups are known: a pod that was
// merely not listed yet must not lose the verdict that the last agent left.
// Where the maps are not those that the programs go by yet, the settings are
// written first, so that a link's guard that goes by them knows who is let pass.
func (a *agent) deliver(ctx context.Context) error {
	if !waitFor(ctx, a.pods.Ready(), a.tree.Ready()) {
		return nil
	}
	if !a.hooks.Active() && !waitFor(ctx, a.attached) {
		return nil
	}
	return a.delivery.Run(ctx)
}

// attachInterval is how often it is looked whether the programs are attached
// as this agent has left them. It bounds for how long a detached one is
// missing.
const attachInterval = 2 * time.Second

// attach applies the configuration to the programs, which attachFirst has attached,
// and keeps them there: where kubepods was made again, and where others have
// detached or unpinned something. It waits for nothing: pods without a verdict
// are held. Programs of another layout are replaced once every pod has its
// verdict in this one.
func (a *agent) attach(ctx context.Context) error {
	changes, cancel := a.tree.Subscribe()
	defer cancel()
	tick := time.NewTicker(attachInterval)
	defer tick.Stop()
	attachedAt, due := uint64(0), false
	decided := a.delivery.Decided()
	for {
		if id := a.tree.KubepodsID(); id != 0 && (id != attachedAt || due) {
			if err := a.settings.attach(id); err != nil && !a.wereAttached() {
				return err
			}
			a.attachOnce.Do(func() { close(a.attached) })
			attachedAt = id
		}
		due = false
		select {
		case <-changes:
		case <-decided:
			decided, due = nil, true
			a.hooks.Filled()
		case <-tick.C:
			due = true
		case <-ctx.Done():
			return nil
		}
	}
}

// wereAttached reports whether this agent has had the programs attached: then it
// serves pods, and tries again rather than end.
func (a *agent) wereAttached() bool {
	select {
	case <-a.attached:
		return true
	default:
		return false
	}
}

func (a *agent) watchConfig(ctx context.Context) error {
	return a.watcher.Run(ctx, func(c *config.AgentConfiguration) {
		if err := a.settings.apply(c); err != nil {
			a.log.Error("the new configuration could not be applied", "err", err)
		}
	}, func(err error) {
		a.log.Error("the new configuration was refused, what was applied stays so", "err", err)
		a.events.configurationRefused(err)
	})
}

// unknownsPerSecond bounds how many callers without a usable verdict are looked
// up. Reports of the kernel beyond it are lost: who connects again is
// reported again.
const unknownsPerSecond = 1000

// watchUnknowns has delivery look at a pod when the kernel meets a caller of
// its without a usable verdict.
func (a *agent) watchUnknowns(ctx context.Context) error {
	limit := rate.NewLimiter(unknownsPerSecond, unknownsPerSecond/10)
	return a.hooks.WatchUnknowns(ctx, func(cgroupID uint64) {
		if ref, err := a.tree.Resolve(cgroupID); err == nil {
			a.delivery.Look(ref.PodUID)
		}
		_ = limit.Wait(ctx) // an error says that ctx ends
	})
}

func (a *agent) sweep(ctx context.Context) error {
	return a.hooks.Sweep(ctx, func(cgroupID uint64) bool {
		_, err := a.tree.Resolve(cgroupID)
		return err == nil
	}, a.namespaces)
}
