package kernel

import (
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
)

// deliveryAttacks are on what brings connections to the agent: verdicts whose
// pods have lost their objects, and what lies between a pod and the node.
func deliveryAttacks() []attack {
	return []attack{
		{
			name: "pod on the node's network deletes its own object", expected: always(held),
			defence: "verdicts end with the cgroup", success: nodeIdentity,
			run: func(t *testing.T, _ guardMode) string { return deletesItself(t, lab.PodOptions{HostNetwork: true}) },
		},
		{
			name: "pod deletes its own object, unknown: pass", expected: always(held),
			defence: "verdicts end with the cgroup", success: nodeIdentity,
			run: func(t *testing.T, _ guardMode) string { return deletesItself(t, lab.PodOptions{}) },
		},
		{
			name: "agent's first start, configuration malformed", expected: always(neverServed),
			defence: "attach first", success: nodeIdentity, run: firstStart,
		},
	}
}

// deletesItself has a steered pod's object deleted while its process lives on,
// where the settings let unknown pods pass; the agent is asked again and again.
func deletesItself(t *testing.T, o lab.PodOptions) string {
	n := newNode(t, options{settings: func(s *intercept.Settings) {
		s.UnknownHostNetworkPass, s.UnknownPass = true, !o.HostNetwork
	}})
	p := n.pod(t, steer, o)
	n.pods.remove(p.UID)
	n.changedFrom(t, p.Cgroup, workload.Steer)
	var all []string
	for range 3 {
		n.delivery.Poke()
		all = append(all, seenBy(p, dialFrom(t, p, dialing{To: imds})))
	}
	return worst(held, all...)
}

const neverServed = "refused all the time"

// firstStart has a labelled pod ask from before the first agent starts on its
// node until some time after that has found a mistake in its configuration.
func firstStart(t *testing.T, guard guardMode) string {
	if *agentProgram == "" {
		t.Skip("needs the agent's program: make test-attack")
	}
	var file federation.File
	p := addIdentity(&file, "one")
	s, err := scene.Open(t.Context(), scene.Options{
		Agent: *agentProgram, Guard: guard.String(), Federation: file, VaultName: "vault", Unready: true,
		Config: "no configuration", Workloads: []*scene.Workload{p},
	})
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	check(t, s.Agent.WaitProblem(t.Context(), "not ready"))
	sum, err := lab.Run[asking, asked](t.Context(), p.Pod, "ask", asking{time.Second})
	check(t, err)
	if n := len(sum.Tokens); n != 0 {
		return nodeIdentity
	}
	return neverServed
}

// changedFrom waits until the verdict is not in force any more.
func (n *node) changedFrom(t *testing.T, cgroup string, was workload.Verdict) {
	t.Helper()
	id, err := lab.CgroupID(cgroup)
	check(t, err)
	eventually(t, was.String()+" is not in force for "+cgroup, func() bool {
		e, ok, err := n.hooks.Verdict(id)
		check(t, err)
		return !ok || e.Verdict != was
	})
}
