package intercept

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// In the order of enum outcome and enum family in bpf/types.h.
var (
	outcomes = []string{"unknown", "pass", "steer", "deny", "refused"}
	families = []string{"ipv4", "ipv6"}
)

// Connects is how often the programs decided in one way about connects to the
// metadata service or to a listener, since the maps were made.
type Connects struct {
	Verdict string // a verdict's name, or "refused"
	Family  string // "ipv4" or "ipv6" (IPv4-mapped)
	Count   uint64
}

// Connects returns the counters, one for each verdict and family.
func (h *Hooks) Connects() ([]Connects, error) {
	all := make([]Connects, 0, len(outcomes)*len(families))
	for o, outcome := range outcomes {
		for f, family := range families {
			var perCPU []uint64
			if err := h.objects.SidestepConnects.Lookup(uint32(o*len(families)+f), &perCPU); err != nil {
				return nil, fmt.Errorf("read the counters: %w", err)
			}
			c := Connects{Verdict: outcome, Family: family}
			for _, n := range perCPU {
				c.Count += n
			}
			all = append(all, c)
		}
	}
	return all, nil
}

var connectsDesc = prometheus.NewDesc("sidestep_connects_total",
	"Connects to the metadata service from pods, by what the kernel did with them.",
	[]string{"verdict", "family"}, nil)

// Describe implements prometheus.Collector.
func (h *Hooks) Describe(ch chan<- *prometheus.Desc) { ch <- connectsDesc }

// Collect implements prometheus.Collector.
func (h *Hooks) Collect(ch chan<- prometheus.Metric) {
	all, err := h.Connects()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(connectsDesc, err)
		return
	}
	for _, c := range all {
		ch <- prometheus.MustNewConstMetric(connectsDesc, prometheus.CounterValue,
			float64(c.Count), c.Verdict, c.Family)
	}
}
