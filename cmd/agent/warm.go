package main

import (
	"context"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// warmUp does Entra's discovery before the first pod asks. Pods can be served
// without it, so failing is no error; it is tried until it succeeds.
func (a *agent) warmUp(ctx context.Context) error {
	const firstPause, longestPause = time.Second, time.Minute
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := a.tokens.Warm(ctx, workload.Workload{})
		if err == nil || ctx.Err() != nil {
			return nil
		}
		a.log.Warn("Entra cannot be reached yet", "err", err, "retry_in", pause.String())
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// warmPods has the engine make ready for each steered pod when it comes to the
// node, some time before its containers run.
func (a *agent) warmPods(ctx context.Context) error {
	if !waitFor(ctx, a.pods.Ready()) {
		return nil
	}
	changes, cancel := a.pods.Subscribe()
	defer cancel()
	known := map[string]bool{} // by UID
	for {
		for _, w := range a.newcomers(known) {
			if err := a.tokens.Warm(ctx, w); err != nil {
				a.log.Debug("Entra cannot be asked before a pod's first token", "err", err)
			}
		}
		select {
		case <-changes:
		case <-ctx.Done():
			return nil
		}
	}
}

// newcomers returns the workloads of steered pods that are not among the known
// ones, and makes those known that are there now. A pod whose service account
// has not come yet is no newcomer yet.
func (a *agent) newcomers(known map[string]bool) []workload.Workload {
	var all []workload.Workload
	present := map[string]bool{}
	for _, p := range a.pods.Pods() {
		if !p.Steered() {
			continue
		}
		w, _, ok := a.pods.Lookup(workload.CgroupRef{PodUID: p.UID})
		if !ok || !w.ServiceAccountSeen {
			continue
		}
		if present[p.UID] = true; !known[p.UID] {
			all = append(all, w)
		}
	}
	clear(known)
	for uid := range present {
		known[uid] = true
	}
	return all
}
