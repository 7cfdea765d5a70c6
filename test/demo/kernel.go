package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/sidestep-agent/sidestep/test/scene"
)

// connects is how often the kernel decided in one way about connects to the
// metadata service.
type connects struct {
	Verdict string // "pass", "steer", "deny", "unknown" or "refused"
	Family  string // "ipv4" or "ipv6"
	Count   int
}

// connectsMetric is the agent's name for the kernel's counters.
const connectsMetric = "sidestep_connects_total"

// kernelCounters reads the kernel's counters from the agent's metrics.
func kernelCounters(ctx context.Context) ([]connects, error) {
	text, err := scene.Metrics(ctx)
	if err != nil {
		return nil, err
	}
	return parseCounters(text)
}

func parseCounters(text []byte) ([]connects, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("the agent's metrics: %w", err)
	}
	counters, ok := families[connectsMetric]
	if !ok {
		return nil, fmt.Errorf("the agent's metrics have no %s", connectsMetric)
	}
	var all []connects
	for _, m := range counters.GetMetric() {
		c := connects{Count: int(m.GetCounter().GetValue())}
		for _, label := range m.GetLabel() {
			switch label.GetName() {
			case "verdict":
				c.Verdict = label.GetValue()
			case "family":
				c.Family = label.GetValue()
			}
		}
		all = append(all, c)
	}
	return all, nil
}

// moved returns the counters that moved between two readings, and by how
// much, the busiest first.
func moved(before, after []connects) []connects {
	var diff []connects
	for _, a := range after {
		for _, b := range before {
			if a.Verdict == b.Verdict && a.Family == b.Family {
				a.Count -= b.Count
			}
		}
		if a.Count != 0 {
			diff = append(diff, a)
		}
	}
	slices.SortFunc(diff, func(a, b connects) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Verdict, b.Verdict), cmp.Compare(a.Family, b.Family))
	})
	return diff
}
