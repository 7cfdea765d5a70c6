package intercept

import (
	"fmt"
	"log/slog"

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

// counters is what the programs count, and how often they were put back. It is a
// prometheus.Collector.
type counters struct {
	objects *kernelObjects
	repairs *repairs
}

// Connects returns the counters, one for each verdict and family.
func (c *counters) Connects() ([]Connects, error) {
	all := make([]Connects, 0, len(outcomes)*len(families))
	for o, outcome := range outcomes {
		for f, family := range families {
			n, err := sum(c.objects.SidestepConnects, o*len(families)+f)
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
func (c *counters) Drops() (map[string]uint64, error) {
	all := make(map[string]uint64, len(drops))
	for i, guard := range drops {
		n, err := sum(c.objects.SidestepDrops, i)
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
func (c *counters) Describe(ch chan<- *prometheus.Desc) {
	ch <- connectsDesc
	ch <- dropsDesc
	newRepairs().total.Describe(ch) // also where nothing is loaded
}

// Collect implements prometheus.Collector.
func (c *counters) Collect(ch chan<- prometheus.Metric) {
	c.collectConnects(ch)
	c.repairs.total.Collect(ch)
	all, err := c.Drops()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(dropsDesc, err)
		return
	}
	for guard, n := range all {
		ch <- prometheus.MustNewConstMetric(dropsDesc, prometheus.CounterValue, float64(n), guard)
	}
}

func (c *counters) collectConnects(ch chan<- prometheus.Metric) {
	all, err := c.Connects()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(connectsDesc, err)
		return
	}
	for _, n := range all {
		ch <- prometheus.MustNewConstMetric(connectsDesc, prometheus.CounterValue,
			float64(n.Count), n.Verdict, n.Family)
	}
}

// cause is what a repair was made for.
type cause string

const (
	// detached: the link was there and led nowhere, as after a forced detach.
	detached cause = "detached"
	// unpinned: the file on the BPF filesystem was gone, or another's.
	unpinned cause = "unpinned"
	// replaced: another program was behind the link.
	replaced cause = "replaced"
	// moved: the kubepods cgroup was recreated.
	moved cause = "moved"
)

// linkObject names the guard of pods' links, of which there are many.
const linkObject = "link"

// mapObject names the maps, which are all repaired in one way.
const mapObject = "map"

// lineObject names the guard's second line, which is no program.
const lineObject = "nftables"

// CountLineRepair counts that the guard's second line was put back. The caller
// tells the log.
func (c *counters) CountLineRepair() {
	c.repairs.total.WithLabelValues(lineObject, string(replaced)).Inc()
}

// repair is one thing that was not as this process had left it. Its objects
// are the hooks' names, "map", "link" for the guard of pods' links, and
// "nftables" for the guard's second line.
type repair struct {
	object string
	cause  cause
}

// repairs counts what was put back, and keeps it until it is logged.
type repairs struct {
	total *prometheus.CounterVec
	new   map[repair]int
}

func newRepairs() *repairs {
	r := &repairs{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sidestep_repairs_total",
			Help: "Programs and maps that others had detached, unpinned or replaced, and that were put back.",
		}, []string{"object", "cause"}),
		new: make(map[repair]int),
	}
	for _, object := range repairable() { // so that each is there, at 0, from the start
		for _, c := range []cause{detached, unpinned, replaced, moved} {
			r.total.WithLabelValues(object, string(c))
		}
	}
	return r
}

// repairable returns all values of the metric's label.
func repairable() []string {
	all := []string{mapObject, linkObject, lineObject}
	h := new(Hooks)
	for _, hook := range append(h.hooks(), h.own(), h.guard()) {
		all = append(all, hook.name)
	}
	return all
}

func (r *repairs) add(object string, c cause) {
	r.total.WithLabelValues(object, string(c)).Inc()
	r.new[repair{object, c}]++
}

// tell writes a line on each kind of repair that is new.
func (r *repairs) tell(log *slog.Logger) {
	for what, n := range r.new {
		log.Warn("programs or maps were not as this agent had left them; put back",
			"object", what.object, "reason", string(what.cause), "count", n)
	}
	clear(r.new)
}
