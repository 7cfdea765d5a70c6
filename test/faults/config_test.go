package faults

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/config"
)

func TestMalformedConfiguration(t *testing.T) {
	r := open(t, "malformed ConfigMap, then a good one", "the old one stays, counted; then the new one is applied")
	end := r.watch(ownToken)
	check(t, r.Agent.WriteConfig("apiVersion: "+config.APIVersion+"\nkind: "+config.Kind+"\nunlabeled: sometimes\n"))
	r.eventually("the refusal is counted", func() bool { return r.metrics("sidestep_config_reloads_total")["refused"] == 1 })
	r.want(r.passing, nodeToken)
	end()
	check(t, r.Agent.Configure(config.UnlabeledDeny))
	check(t, r.Agent.WaitApplied(t.Context(), r.passing.Pod.UID, config.UnlabeledDeny))
	r.want(r.passing, refused)
	r.want(r.steered, ownToken)
	r.see("then the unlabelled pod is denied")
}

const malformed = header + "mode: auditt\n"

func TestMalformedConfigurationAtTheStart(t *testing.T) {
	r := open(t, "malformed ConfigMap, and the agent starts again", "the last good one stays, a problem in status; then the new one is applied")
	r.eventually("the configuration is kept", func() bool { _, err := os.Stat(r.keptConfig()); return err == nil })
	check(t, r.Agent.WriteConfig(malformed))
	check(t, r.Agent.Kill())
	check(t, r.Restart(t.Context()))
	r.problem("the configuration is refused, the last good one stays applied")
	r.want(r.steered, ownToken)
	r.want(r.passing, nodeToken)
	report, err := r.Agent.Status(t.Context())
	check(t, err)
	r.see("ready, by the configuration that was %s", report.Configuration.Origin)
	check(t, r.Agent.Configure(config.UnlabeledDeny))
	check(t, r.Agent.WaitApplied(t.Context(), r.passing.Pod.UID, config.UnlabeledDeny))
	r.want(r.passing, refused)
	r.see("then the unlabelled pod is denied")
}

// A new node, for example: nothing says who may pass.
func TestNoValidConfiguration(t *testing.T) {
	r := open(t, "malformed ConfigMap, and no good one is kept", "attached, all held, not ready, said so; then served")
	r.eventually("the configuration is kept", func() bool { _, err := os.Stat(r.keptConfig()); return err == nil })
	check(t, r.Agent.WriteConfig(malformed))
	check(t, r.Agent.Kill())
	check(t, os.Remove(r.keptConfig()))
	next, err := r.StartBeside()
	check(t, err)
	r.Agent = next
	r.problem("the configuration is refused, every pod is held")
	r.problem("not ready: there is no valid configuration")
	r.wantHeld()
	r.see("both held")
	check(t, r.Agent.Configure(config.UnlabeledPass))
	r.sound()
	r.want(r.steered, ownToken)
	r.want(r.passing, nodeToken)
	r.see("then served")
}

func (r *rig) keptConfig() string { return filepath.Join(r.StateDir(), "config.last-good.yaml") }
