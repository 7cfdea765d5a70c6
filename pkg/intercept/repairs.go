package intercept

import (
	"fmt"
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
	// moved: the kubepods cgroup was made anew.
	moved cause = "moved"
)

// linkObject names the guard of pods' links, of which there are many.
const linkObject = "link"

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

func newRepairs() *repairs {
	return &repairs{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sidestep_repairs_total",
			Help: "Programs and maps that others had detached, unpinned or replaced, and that were put back.",
		}, []string{"object", "cause"}),
		new: make(map[repair]int),
	}
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
	all := make([]any, 0, len(r.new))
	for what, n := range r.new {
		all = append(all, slog.Int(fmt.Sprintf("%s_%s", what.object, what.cause), n))
	}
	log.Warn("programs or maps were not as this agent had left them; put back", slog.Group("repairs", all...))
	clear(r.new)
}
