package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/podcache"
)

// guardLook is how often it is looked which pods are not guarded, and which are
// not served since their neighbours could read that. What is so at two looks in
// a row is no link on its way into a pod that starts.
const guardLook = 5 * time.Second

// guardWatch tells people which guard is active, and of which pods it is less.
type guardWatch struct {
	options  Options
	log      *slog.Logger
	events   *events
	delivery *delivery.Reconciler
	pods     *podcache.Cache
}

// register reports, in log, metric and event, which guard is active.
func (g *guardWatch) register(r prometheus.Registerer) {
	guard, reduced := g.options.effectiveGuard()
	mode := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "sidestep_guard_info", Help: "Always 1; the labels say which guard is active and which one was asked for.",
		ConstLabels: prometheus.Labels{"guard": guard, "asked": g.options.Guard},
	})
	mode.Set(1)
	r.MustRegister(mode, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sidestep_unguarded_pods",
		Help: "Pods whose packets should be guarded at their links and are not.",
	}, func() float64 { return float64(len(g.delivery.Unguarded())) }))
	if reduced != nil {
		g.log.Warn("the guard is less than asked for", "asked", g.options.Guard, "active", guard, "err", reduced)
		g.events.guardReduced(guard, reduced)
	}
}

// run makes an event of each pod whose packets are not guarded, and of each
// reason for which pods are not served, until ctx ends.
func (g *guardWatch) run(ctx context.Context) error {
	tick := time.NewTicker(guardLook)
	defer tick.Stop()
	var known unguardedPods
	exposed := make(map[string]bool)
	for {
		for _, why := range g.exposed() {
			if !exposed[why] {
				g.events.podsExposed(why)
			}
			exposed[why] = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		news := known.look(g.delivery.Unguarded())
		if len(news) == 0 {
			continue
		}
		for _, p := range g.pods.Pods() {
			if err := news[p.UID]; err != nil {
				g.events.packetsNotGuarded(p, err)
			}
		}
	}
}

// problems says of which pods the guard is less than asked for.
func (g *guardWatch) problems() []string {
	var all []string
	if guard, reduced := g.options.effectiveGuard(); reduced != nil {
		all = append(all, fmt.Sprintf("the active guard is %s: %v", guard, reduced))
	}
	unguarded := g.delivery.Unguarded()
	for _, p := range g.pods.Pods() {
		if err := unguarded[p.UID]; err != nil {
			all = append(all, fmt.Sprintf("pod %s/%s: only its sockets are guarded: %v", p.Namespace, p.Name, err))
		}
	}
	return append(all, g.exposed()...)
}

// exposed says why pods are not served with node delivery: their neighbours
// could read what they are sent.
func (g *guardWatch) exposed() []string {
	if g.options.Delivery != DeliveryNode {
		return nil // they are served by listeners of their own
	}
	var all []string
	for _, why := range g.delivery.Exposed() {
		all = append(all, "pods are not served, since their neighbours could read their tokens: "+why+
			"; say --delivery=pod, or use a network plugin that gives each pod a link of its own")
	}
	return all
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
