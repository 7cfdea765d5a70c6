package intercept

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
)

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
func (h *Hooks) CountLineRepair() {
	h.repairs.total.WithLabelValues(lineObject, string(replaced)).Inc()
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
