package faults

import (
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/scene"
)

// Whatever is wrong at an agent's first start on a node, the programs are
// attached before: no pod has the node's identity, and the agent says what is
// wrong.
func TestFirstStart(t *testing.T) {
	for _, start := range []struct {
		fault, says string
		change      func(*scene.Options)
	}{
		{
			"a flag that is none, at the first start", "must be one of",
			func(o *scene.Options) { o.Flags = []string{"--cloud", "AzureMoon"} },
		},
		{
			"a CA file that is missing, at the first start", "/missing.crt",
			func(o *scene.Options) { o.Flags = []string{"--ca-file", "/missing.crt"} },
		},
		{
			"an IMDS endpoint that is none, at the first start", "endpoint",
			func(o *scene.Options) { o.Flags = []string{"--imds-endpoint", "nowhere"} },
		},
	} {
		t.Run(start.fault, func(t *testing.T) {
			r := open(t, start.fault, "no pod gets the node's identity; the agent is not ready and says why",
				start.change, func(o *scene.Options) { o.Unready = true })
			check(t, r.Agent.WaitProblem(t.Context(), start.says))
			r.want(r.steered, refused)
			r.want(r.passing, refused)
			r.see("both pods refused; agent status: %s", start.says)
		})
	}
}

// A mistake in the configuration is found out likewise, and once it is fixed
// the same agent serves.
func TestFirstConfigurationIsMalformed(t *testing.T) {
	r := open(t, "malformed configuration at the first start", "no pod gets the node's identity; once fixed, pods are served",
		func(o *scene.Options) { o.Unready, o.Config = true, malformed })
	check(t, r.Agent.WaitProblem(t.Context(), "the configuration is refused, every pod is held"))
	r.wantHeld()
	check(t, r.Agent.Configure(config.UnlabeledPass))
	check(t, r.Agent.WaitReady(t.Context()))
	r.want(r.steered, ownToken)
	r.want(r.passing, nodeToken)
	r.see("both held, then served")
}

// An API server that does not answer tells of no pod: all are held.
func TestFirstStartWithoutTheAPI(t *testing.T) {
	r := open(t, "no API server at the first start", "all are held; the agent is not ready and says why", func(o *scene.Options) {
		o.Unready = true
		o.Unattended = func(s *scene.Scene) error { return s.Cloud.StopAPI() }
	})
	check(t, r.Agent.WaitProblem(t.Context(), "the pods have not been listed"))
	r.wantHeld()
	r.see("both held")
}

// wantHeld fails the test unless neither pod gets an answer.
func (r *rig) wantHeld() {
	r.t.Helper()
	for _, w := range []*scene.Workload{r.steered, r.passing} {
		got, err := lab.Run[asking, answers](r.t.Context(), w.Pod, "ask", asking{Patience: impatience})
		check(r.t, err)
		if !got.only(noAnswer) {
			r.t.Errorf("%s got %v, want to be held", w, got)
		}
	}
}
