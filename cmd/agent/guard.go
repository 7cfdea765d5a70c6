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

// effectiveGuard returns the guard that is in force, and why it is less than what was
// asked for, if it is.
func (o runOptions) effectiveGuard() (string, error) {
	if o.guard == guardFull && o.delivery == deliveryNode {
		return guardSocket, errNoNamespaces
	}
	return o.guard, nil
}

// tellGuard makes known, in log, metric and event, what guard is in force.
func (a *agent) tellGuard() {
	guard, reduced := a.options.effectiveGuard()
	mode := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "sidestep_guard_info", Help: "Always 1; the labels say which guard is in force and which one was asked for.",
		ConstLabels: prometheus.Labels{"guard": guard, "asked": a.options.guard},
	})
	mode.Set(1)
	a.registry.MustRegister(mode, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sidestep_unguarded_pods",
		Help: "Pods whose packets should be guarded at their links and are not.",
	}, func() float64 { return float64(len(a.delivery.Unguarded())) }))
	if reduced != nil {
		a.log.Warn("the guard is less than asked for", "asked", a.options.guard, "in_force", guard, "err", reduced)
		a.events.guardReduced(guard, reduced)
	}
}

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
	told := make(map[string]bool)
	for {
		for _, why := range a.exposedProblems() {
			if !told[why] {
				a.events.podsExposed(why)
			}
			told[why] = true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// exposedInterval is how soon the cluster is told of pods that are not served.
const exposedInterval = 5 * time.Second

// guardProblems says of which pods the guard is less than asked for.
func (a *agent) guardProblems() []string {
	var all []string
	if guard, reduced := a.options.effectiveGuard(); reduced != nil {
		all = append(all, fmt.Sprintf("the guard in force is %s: %v", guard, reduced))
	}
	unguarded := a.delivery.Unguarded()
	for _, p := range a.pods.Pods() {
		if err := unguarded[p.UID]; err != nil {
			all = append(all, fmt.Sprintf("pod %s/%s: only its sockets are guarded: %v", p.Namespace, p.Name, err))
		}
	}
	return all
}
