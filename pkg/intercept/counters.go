package intercept

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/prometheus/client_golang/prometheus"
)

// In the order of enum outcome and enum family in bpf/types.h.
var (
	outcomes = []string{"unknown", "pass", "steer", "deny", "refused", "wireserver"}
	families = []string{"ipv4", "ipv6"}
	// drops is in the order of enum drop.
	drops = []string{"socket", "packet", "gate"}
)

// Connects is how often the programs decided in one way about connects to the
// metadata service or to a listener, since the maps were made.
type Connects struct {
	Verdict string // a verdict's name, "refused", or "wireserver" if that was denied
	Family  string // "ipv4" or "ipv6" (IPv4-mapped)
	Count   uint64
}

// Connects returns the counters, one for each verdict and family.
func (h *Hooks) Connects() ([]Connects, error) {
	all := make([]Connects, 0, len(outcomes)*len(families))
	for o, outcome := range outcomes {
		for f, family := range families {
			n, err := sum(h.objects.SidestepConnects, o*len(families)+f)
			if err != nil {
				return nil, err
			}
			all = append(all, Connects{Verdict: outcome, Family: family, Count: n})
		}
	}
	return all, nil
}

// Drops returns how many packets each guard, "socket", "packet" and "gate",
// dropped since the maps were made.
func (h *Hooks) Drops() (map[string]uint64, error) {
	all := make(map[string]uint64, len(drops))
	for i, guard := range drops {
		n, err := sum(h.objects.SidestepDrops, i)
		if err != nil {
			return nil, err
		}
		all[guard] = n
	}
	return all, nil
}

func sum(perCPU *ebpf.Map, index int) (uint64, error) {
	var values []uint64
	if err := perCPU.Lookup(uint32(index), &values); err != nil {
		return 0, fmt.Errorf("read the counters: %w", err)
	}
	var total uint64
	for _, n := range values {
		total += n
	}
	return total, nil
}

var (
	connectsDesc = prometheus.NewDesc("sidestep_connects_total",
		"Connects to the metadata service from pods, by what the kernel did with them.",
		[]string{"verdict", "family"}, nil)
	dropsDesc = prometheus.NewDesc("sidestep_guard_drops_total",
		"Packets to the metadata service, the wire server or an impostor of the agent that a guard dropped.",
		[]string{"guard"}, nil)
)

// Describe implements prometheus.Collector.
func (h *Hooks) Describe(ch chan<- *prometheus.Desc) {
	ch <- connectsDesc
	ch <- dropsDesc
	newRepairs().total.Describe(ch) // also where nothing is loaded
}

// Collect implements prometheus.Collector.
func (h *Hooks) Collect(ch chan<- prometheus.Metric) {
	h.collectConnects(ch)
	h.repairs.total.Collect(ch)
	all, err := h.Drops()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(dropsDesc, err)
		return
	}
	for guard, n := range all {
		ch <- prometheus.MustNewConstMetric(dropsDesc, prometheus.CounterValue, float64(n), guard)
	}
}

func (h *Hooks) collectConnects(ch chan<- prometheus.Metric) {
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
