package main

import (
	"context"
	"fmt"
	"runtime"
	"time"
)

// step is what one number of agents costs.
type step struct {
	Agents       int     `json:"agents"`
	Extrapolated bool    `json:"extrapolated"`
	Pods         int     `json:"pods"`
	PodWatches   int     `json:"podWatches"`
	Watches      int     `json:"watches"`      // pods' and service accounts'
	ResidentMB   float64 `json:"residentMB"`   // of the apiserver
	RestCPU      float64 `json:"restCPU"`      // its processor time per second at rest
	RestRequests float64 `json:"restRequests"` // per second, without renewed watches
	Renewals     float64 `json:"renewals"`     // watches that clients renew, per second
	AgentKB      float64 `json:"agentKB"`      // heap and stacks of one agent's API side
	StartPeak    int     `json:"startPeak"`    // requests in the busiest second as agents start
	Restart      asked   `json:"restart"`      // what came in after the apiserver was started again
	BackAfter    float64 `json:"backAfter"`    // seconds until all watches were back
	Foreign      int     `json:"foreign"`      // requests for others' objects
}

// meanRenewal is how long client-go's reflectors keep a watch: 5 to 10
// minutes, at random (reflector.go, minWatchTimeout).
const meanRenewal = 450 * time.Second

// measurer takes the fleet through the numbers.
type measurer struct {
	plane *controlPlane
	fleet *fleet
	rest  time.Duration
	say   func(format string, args ...any)
}

// measure grows the cluster and the fleet to n and measures.
func (m *measurer) measure(ctx context.Context, n int) (step, error) {
	begun := time.Now()
	have := len(m.fleet.agents)
	if err := fill(ctx, m.plane.admin, have, n); err != nil {
		return step{}, err
	}
	m.say("%d pods made in %.0f s", (n-have)*podsPerNode, time.Since(begun).Seconds())
	begun = time.Now()
	if err := m.fleet.growTo(ctx, n); err != nil {
		return step{}, err
	}
	if err := m.awaitWatches(ctx); err != nil {
		return step{}, err
	}
	m.say("%d agents know their pods, %.0f s after the first started", n, time.Since(begun).Seconds())
	s := step{Agents: n, Pods: n * podsPerNode}
	started, err := m.plane.askedSince(begun)
	if err != nil {
		return step{}, err
	}
	s.StartPeak = started.Peak
	if err := m.atRest(ctx, &s); err != nil {
		return step{}, err
	}
	if err := m.afterRestart(ctx, &s); err != nil {
		return step{}, err
	}
	all, err := m.plane.askedSince(time.Time{})
	s.Foreign = len(all.Foreign)
	if s.Foreign > 0 {
		m.say("asked for what is not theirs: %q", all.Foreign)
	}
	return s, err
}

// atRest measures while nothing changes.
func (m *measurer) atRest(ctx context.Context, s *step) error {
	if err := sleep(ctx, 5*time.Second); err != nil { // until the audit log and the caches are quiet
		return err
	}
	before, err := m.plane.scrape(ctx)
	if err != nil {
		return err
	}
	if err := sleep(ctx, m.rest); err != nil {
		return err
	}
	after, err := m.plane.scrape(ctx)
	if err != nil {
		return err
	}
	const cpu = "process_cpu_seconds_total"
	s.RestCPU = (after.sum(cpu, nil) - before.sum(cpu, nil)) / m.rest.Seconds()
	s.RestRequests = (after.requests() - before.requests()) / m.rest.Seconds()
	s.PodWatches, s.Watches = m.open(after)
	s.Renewals = float64(s.Watches) / meanRenewal.Seconds()
	s.AgentKB = heapKB() / float64(s.Agents)
	s.ResidentMB, err = residentMB(m.plane.api.cmd.Process.Pid)
	return err
}

// open returns how many watches of pods, and of pods and service accounts, are
// open; the apiserver's own watches go through a cache and are among them.
func (m *measurer) open(s scrape) (pods, all int) {
	pods = s.openWatches("pods")
	return pods, pods + s.openWatches("serviceaccounts")
}

// afterRestart kills the apiserver and starts it again, and looks how the
// agents come back: all at the same time, the worst that can happen.
func (m *measurer) afterRestart(ctx context.Context, s *step) error {
	m.plane.api.kill()
	since := time.Now()
	if err := m.plane.startAPI(ctx); err != nil {
		return err
	}
	ready := time.Now()
	if err := m.awaitWatches(ctx); err != nil {
		return err
	}
	s.BackAfter = time.Since(ready).Seconds()
	if err := sleep(ctx, 3*time.Second); err != nil { // the audit log is written in batches
		return err
	}
	var err error
	s.Restart, err = m.plane.askedSince(since)
	m.say("after a restart of the apiserver %d lists and %d watches, %d of them refused, all back %.1f s after it was ready", s.Restart.Lists, s.Restart.Watches, s.Restart.Refused, s.BackAfter)
	return err
}

// awaitWatches returns once every agent has all of its watches open.
func (m *measurer) awaitWatches(ctx context.Context) error {
	deadline := time.Now().Add(10 * time.Minute)
	for {
		s, err := m.plane.scrape(ctx)
		if err != nil {
			return err
		}
		_, open := m.open(s)
		if open >= m.fleet.watches() {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d watches are open, want %d", open, m.fleet.watches())
		}
		if err := sleep(ctx, 250*time.Millisecond); err != nil {
			return err
		}
	}
}

// heapKB returns what this process keeps, the agents' stacks included.
func heapKB() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc+m.StackInuse) / 1e3
}
