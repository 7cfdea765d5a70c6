package intercept

import (
	"fmt"
	"log/slog"
	"slices"

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
	// moved: the kubepods cgroup was made anew.
	moved cause = "moved"
)

const (
	linkObject = "link" // the guard of pods' links, of which there are many
	mapObject  = "map"
)

// repair is one thing that was not as this process had left it. Its objects
// are the hooks' names, "map", and "link" for the guard of pods' links.
type repair struct {
	object string
	cause  cause
}

// repairs counts what was put back, and keeps it until the log is told.
type repairs struct {
	total *prometheus.CounterVec
	new   map[repair]int
}

var (
	repairsOpts = prometheus.CounterOpts{
		Name: "sidestep_repairs_total",
		Help: "Programs and maps that others had detached, unpinned or replaced, and that were put back.",
	}
	repairsLabels = []string{"object", "cause"}
)

// newRepairs returns a count that starts with a zero for each object and cause:
// who asks for the increase of one that is new misses the first.
func newRepairs() *repairs {
	r := &repairs{total: prometheus.NewCounterVec(repairsOpts, repairsLabels), new: make(map[repair]int)}
	objects := []string{linkObject}
	for _, hook := range append((&Hooks{}).hooks(), (&Hooks{}).guard()) {
		objects = append(objects, hook.name)
		r.total.WithLabelValues(hook.name, string(moved))
	}
	for _, object := range objects {
		for _, c := range []cause{detached, unpinned, replaced} {
			r.total.WithLabelValues(object, string(c))
		}
	}
	r.total.WithLabelValues(mapObject, string(unpinned))
	return r
}

func (r *repairs) add(object string, c cause) {
	r.total.WithLabelValues(object, string(c)).Inc()
	r.new[repair{object, c}]++
}

// tell writes one line on all that is new.
func (r *repairs) tell(log *slog.Logger) {
	if len(r.new) == 0 {
		return
	}
	all := make([]string, 0, len(r.new))
	for what, n := range r.new {
		all = append(all, fmt.Sprintf("%s %s: %d", what.object, what.cause, n))
	}
	slices.Sort(all)
	log.Warn("programs or maps were not as this agent had left them; put back", "repairs", all)
	clear(r.new)
}
