package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
)

// The values of --guard.
const (
	guardFull   = "full"
	guardSocket = "socket"
	guardOff    = "off"
)

func addGuard(flags *pflag.FlagSet, guard *string) {
	addOneOf(flags, guard, "guard", "", "what is dropped that evades connect(): packets too, those of sockets, or nothing",
		guardFull, guardSocket, guardOff)
}

// errNoNamespaces says why the full guard is not to be had with node delivery.
var errNoNamespaces = errors.New("with --delivery=node the agent may not look into pods' network namespaces, so it cannot tell whose a link is: " +
	"say --guard=socket, or --delivery=pod")

// effectiveGuard returns the active guard, and why it is less than what was
// asked for, if it is.
func (o runOptions) effectiveGuard() (string, error) {
	if o.guard == guardFull && o.delivery == deliveryNode {
		return guardSocket, errNoNamespaces
	}
	return o.guard, nil
}

// tellGuard reports, in log, metric and event, which guard is active.
func (a *agent) tellGuard() {
	guard, reduced := a.options.effectiveGuard()
	mode := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "sidestep_guard_info", Help: "Always 1; the labels say which guard is active and which one was asked for.",
		ConstLabels: prometheus.Labels{"guard": guard, "asked": a.options.guard},
	})
	mode.Set(1)
	a.registry.MustRegister(mode, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sidestep_unguarded_pods",
		Help: "Pods whose packets should be guarded at their links and are not.",
	}, func() float64 { return float64(len(a.delivery.Unguarded())) }))
	if reduced != nil {
		a.log.Warn("the guard is less than asked for", "asked", a.options.guard, "active", guard, "err", reduced)
		a.events.guardReduced(guard, reduced)
	}
}

// unguardedInterval is how often it is looked which pods are not guarded. What
// is so at two looks in a row is no link on its way into a pod that starts.
const unguardedInterval = 5 * time.Second

// tellUnguarded reports each pod whose packets are not guarded by an event on
// it, until ctx ends.
func (a *agent) tellUnguarded(ctx context.Context) error {
	tick := time.NewTicker(unguardedInterval)
	defer tick.Stop()
	var known unguardedPods
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		news := known.look(a.delivery.Unguarded())
		for _, p := range a.pods.Pods() {
			if err := news[p.UID]; err != nil {
				a.events.packetsNotGuarded(p, err)
			}
		}
	}
}

// unguardedPods are the pods that were not guarded at the last look, by UID:
// true once that was reported.
type unguardedPods map[string]bool

// look returns those of the pods that were not guarded at the last look either,
// and that were not reported yet.
func (all *unguardedPods) look(now map[string]error) (news map[string]error) {
	next := make(unguardedPods, len(now))
	news = make(map[string]error)
	for uid, err := range now {
		reported, before := (*all)[uid]
		if before && !reported {
			news[uid] = err
		}
		next[uid] = before
	}
	*all = next
	return news
}

// guardProblems says of which pods the guard is less than asked for.
func (a *agent) guardProblems() []string {
	var all []string
	if guard, reduced := a.options.effectiveGuard(); reduced != nil {
		all = append(all, fmt.Sprintf("the active guard is %s: %v", guard, reduced))
	}
	unguarded := a.delivery.Unguarded()
	for _, p := range a.pods.Pods() {
		if err := unguarded[p.UID]; err != nil {
			all = append(all, fmt.Sprintf("pod %s/%s: only its sockets are guarded: %v", p.Namespace, p.Name, err))
		}
	}
	return all
}
