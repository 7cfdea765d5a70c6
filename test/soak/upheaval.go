package main

import (
	"context"
	"sync"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/entra"
)

const (
	restartEvery = 4 * time.Second
	killEach     = 5 // restarts
	reloadEvery  = 3 * time.Second
	faultEvery   = 6 * time.Second
	restartLimit = 2 * time.Minute
)

// faults are what Entra does in turn, and for how long. The last one outlasts
// what a pod is held.
var faults = []struct {
	fault entra.Fault
	lasts time.Duration
}{
	{entra.Fault{Status: 500}, 6 * time.Second},
	{entra.Fault{Status: 429, RetryAfter: "2"}, 6 * time.Second},
	{entra.Fault{DelaySeconds: 1.5}, 8 * time.Second},
	{entra.Fault{Reset: true}, 6 * time.Second},
	{entra.Fault{Status: 503, Share: 0.5}, 8 * time.Second},
	{entra.Fault{Status: 503}, 32 * time.Second},
}

// upheaval is all that is done to the agent.
type upheaval struct {
	scene    *scene.Scene
	standing []*scene.Workload
	record   *record
	// configure writes the file that all agents read.
	configure func(text string) error
	// calm is had by a fault of Entra's, or by the death of an agent: after
	// one the tokens are gone, and must be fetched again before Entra fails.
	calm sync.Mutex
	// starts is had by an agent that starts, or by a configuration that none
	// can start with.
	starts sync.Mutex
}

// breakEntra has Entra fail in one way after the other until ctx ends, each
// time for longest at most.
func (u *upheaval) breakEntra(ctx context.Context, longest time.Duration) error {
	for n := 0; pause(ctx, min(faultEvery, longest)); n++ {
		u.calm.Lock()
		next := faults[n%len(faults)]
		_ = u.record.during(&u.record.broken, func() error {
			u.scene.Cloud.Entra.SetFault(next.fault)
			pause(ctx, min(next.lasts, longest))
			u.scene.Cloud.Entra.SetFault(entra.Fault{})
			return nil
		})
		u.record.count(func(c *counts) *int { return &c.Faults })
		u.calm.Unlock()
	}
	return nil
}

// restart replaces the agent, and kills it now and then, until ctx ends. The
// last one has taken over from another.
func (u *upheaval) restart(ctx context.Context) error {
	for n := 1; pause(ctx, restartEvery); n++ {
		do := u.handOver
		if n%killEach == 0 {
			do = u.kill
		}
		if err := u.start(ctx, do); err != nil {
			return err
		}
	}
	return u.start(ctx, u.handOver)
}

// start has an agent start, and waits until it serves.
func (u *upheaval) start(ctx context.Context, do func(context.Context) error) error {
	u.starts.Lock()
	defer u.starts.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restartLimit)
	defer cancel()
	return do(ctx)
}

func (u *upheaval) handOver(ctx context.Context) error {
	u.record.count(func(c *counts) *int { return &c.HandOvers })
	return u.scene.Upgrade(ctx)
}

// kill leaves the node without an agent, and starts the next.
func (u *upheaval) kill(ctx context.Context) error {
	u.calm.Lock()
	defer u.calm.Unlock()
	u.record.count(func(c *counts) *int { return &c.Kills })
	err := u.record.during(&u.record.dead, func() error {
		if err := u.scene.Agent.Kill(); err != nil {
			return err
		}
		return u.scene.Restart(ctx)
	})
	if err != nil {
		return err
	}
	return served(ctx, u.standing)
}

const header = "apiVersion: " + config.APIVersion + "\nkind: " + config.Kind + "\n" + `exceptions:
- {namespaces: [system], podSelector: {matchLabels: {app: metadata}}}
`

// plainConfig is applied where no other is.
const plainConfig = header

// configs are what the configuration says in turn. None is about a pod that
// asks.
var configs = []string{
	header + "- {namespaces: [aside], podSelector: {matchLabels: {app: bystander}}}\n",
	badConfig,
	header + "scope: {namespaces: [shop, churn, system]}\n",
	plainConfig,
}

// badConfig is refused.
const badConfig = header + "mode: perhaps\n"

// reload changes the configuration until ctx ends, and leaves the plain one.
func (u *upheaval) reload(ctx context.Context) error {
	for n := 0; pause(ctx, reloadEvery); n++ {
		next := configs[n%len(configs)]
		if err := u.write(ctx, next); err != nil {
			return err
		}
		u.record.count(func(c *counts) *int { return &c.Reloads })
	}
	return u.configure(plainConfig)
}

// write writes a configuration; a bad one stays for a moment only.
func (u *upheaval) write(ctx context.Context, text string) error {
	if text != badConfig {
		return u.configure(text)
	}
	u.starts.Lock()
	defer u.starts.Unlock()
	if err := u.configure(badConfig); err != nil {
		return err
	}
	pause(ctx, time.Second)
	return u.configure(plainConfig)
}

// pause reports whether ctx goes on after a time.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
