package faults

import (
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/config"
)

func TestMalformedConfiguration(t *testing.T) {
	r := open(t, "malformed ConfigMap, then a good one", "the old one stays, counted; then the new one is in force")
	end := r.watch(ownToken)
	check(t, r.Agent.WriteConfig("apiVersion: "+config.APIVersion+"\nkind: "+config.Kind+"\nunlabeled: sometimes\n"))
	r.eventually("the refusal is counted", func() bool { return r.metrics("sidestep_config_reloads_total")["refused"] == 1 })
	r.want(r.passing, nodeToken)
	end()
	check(t, r.Agent.Configure(config.UnlabeledDeny))
	check(t, r.Agent.WaitInForce(t.Context(), r.passing.Pod.UID, config.UnlabeledDeny))
	r.want(r.passing, refused)
	r.want(r.steered, ownToken)
	r.see("then the unlabelled pod is denied")
}
