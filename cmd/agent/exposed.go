package main

import (
	"context"
	"time"
)

// exposedInterval is how often pods that are not served are looked for.
const exposedInterval = 5 * time.Second

// exposedProblems says why pods are not served with node delivery: their
// neighbours could read what they are sent.
func (a *agent) exposedProblems() []string {
	if a.options.delivery != deliveryNode {
		return nil // they are served by listeners of their own
	}
	var all []string
	for _, why := range a.delivery.Exposed() {
		all = append(all, "pods are not served, since their neighbours could read their tokens: "+why+
			"; say --delivery=pod, or use a network plugin that gives each pod a link of its own")
	}
	return all
}

// tellExposed makes an event of what exposedProblems says, until ctx ends.
func (a *agent) tellExposed(ctx context.Context) error {
	if a.options.delivery != deliveryNode {
		return nil
	}
	tick := time.NewTicker(exposedInterval)
	defer tick.Stop()
	reported := make(map[string]bool)
	for {
		for _, why := range a.exposedProblems() {
			if !reported[why] {
				a.events.podsExposed(why)
			}
			reported[why] = true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
