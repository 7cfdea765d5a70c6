package kernel

import (
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/lab"
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
