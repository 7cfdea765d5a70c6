package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/routeguard"
)

// The values of --second-line.
const (
	lineAuto     = "auto"
	lineNFTables = "nftables"
	lineOff      = "off"
)

func addSecondLine(flags *pflag.FlagSet, line *string) {
	addOneOf(flags, line, "second-line", "", "the part of --guard=full that drops where the node routes; auto: nftables, but none where the node's label says that packets bypass netfilter (AKS with eBPF host routing)",
		lineAuto, lineNFTables, lineOff)
}

// errLineOff says why a full guard has no second line.
var errLineOff = errors.New("--second-line=off: what a Service, a tunnel or another node leads to the metadata service is not dropped")

// makeLine makes the second line where the full guard is active; nothing is
// written yet.
func (a *agent) makeLine() error {
	guard, _ := a.options.effectiveGuard()
	if guard == guardFull && a.options.secondLine != lineOff {
		a.line = routeguard.New(routeguard.Options{
			Log: a.log, Repaired: a.hooks.CountLineRepair, Failed: a.lineMissing,
		})
	}
	return nil
}

func linePolicy(c *config.AgentConfiguration) routeguard.Policy {
	return routeguard.Policy{
		Open:           c.Mode == config.ModeAudit,
		UnknownPass:    c.Unknown == config.UnknownPass,
		DenyWireServer: c.WireServer == config.WireServerDeny,
	}
}

// deliveryLine returns the line as delivery knows it.
func (a *agent) deliveryLine() delivery.Line {
	if a.line == nil {
		return nil // and not an interface with a nil in it
	}
	return a.line
}

// applyLine has the line follow the configuration. If it cannot, that is reported by
// lineState.
func (a *agent) applyLine(c *config.AgentConfiguration) {
	if a.line != nil {
		_ = a.line.SetPolicy(linePolicy(c))
	}
}

// keepLine keeps the line as it was written, or removes what an earlier
// agent with another guard has left of one.
func (a *agent) keepLine(ctx context.Context) error {
	if a.line != nil {
		return a.line.Run(ctx)
	}
	left, err := routeguard.Leftovers()
	if err != nil {
		a.log.Debug("cannot look for a second line", "err", err) // no nftables here
	}
	for _, l := range left {
		if err := l.Remove(); err != nil {
			return fmt.Errorf("remove %s: %w", l.What, err)
		}
	}
	return nil
}

// lineState returns what the line does, and why it is none; empty where the
// guard has no second line.
func (a *agent) lineState() (string, error) {
	guard, _ := a.options.effectiveGuard()
	switch {
	case guard != guardFull:
		return "", nil
	case a.line == nil:
		return string(routeguard.None), errLineOff
	}
	state, err := a.line.State()
	return string(state), err
}

// tellLine reports, in metric, log and event, whether the line is there.
func (a *agent) tellLine() {
	for _, s := range routeguard.States() {
		a.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "sidestep_second_line",
			Help:        "1 for the state of the second line of --guard=full, where the node routes; all 0 with another guard.",
			ConstLabels: prometheus.Labels{"state": string(s)},
		}, func() float64 {
			if state, _ := a.lineState(); state == string(s) {
				return 1
			}
			return 0
		}))
	}
	a.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "sidestep_second_line_drops_total",
		Help: "Packets to the metadata service or the wire server that the second line dropped.",
	}, func() float64 {
		if a.line == nil {
			return 0
		}
		n, _ := routeguard.Drops()
		return float64(n)
	}))
	if state, err := a.lineState(); state == string(routeguard.None) {
		a.lineMissing(err)
	}
}

// holdRoutes drops everything where the node routes, for the boot guard, before
// any agent has run. A node without a second line boots all the same.
func (o guardOptions) holdRoutes(c *config.AgentConfiguration, log *slog.Logger) {
	if o.guard != guardFull || o.secondLine == lineOff {
		return
	}
	line := routeguard.New(routeguard.Options{
		Log: log, Repaired: func() {},
		Failed: func(err error) { log.Warn("the full guard has no second line", "err", err) },
	})
	_ = line.SetPolicy(linePolicy(c)) // nothing is written yet
	_ = line.Hold()                   // reported by Failed
}

// lineMissing tells that the full guard lacks its second line.
func (a *agent) lineMissing(err error) {
	a.log.Warn("the full guard has no second line", "err", err)
	if a.events != nil { // else tellLine says it
		a.events.lineMissing(err)
	}
}

// lineProblems says what is wrong with the line.
func (a *agent) lineProblems() []string {
	if state, err := a.lineState(); state == string(routeguard.None) {
		return []string{fmt.Sprintf("the guard has no second line: %s", strings.TrimSpace(err.Error()))}
	}
	return nil
}
