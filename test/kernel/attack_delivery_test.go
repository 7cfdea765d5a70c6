package kernel

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
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
			name: "agent's first start, the CA file missing", expected: always(neverServed),
			defence: "attach first", success: nodeIdentity, run: firstStart,
		},
		{
			name: "held pod that passes, past the platform's drop rule", expected: always(held),
			defence: "spliced from the pod's namespace", success: nodeIdentity, run: passedOn,
		},
		{
			name: "neighbour on the bridge, ARP (default capabilities)", expected: always(nothingRead),
			defence: "no token where neighbours can read", success: readByNeighbour,
			run: func(t *testing.T, _ guardMode) string { return neighbourReads(t, false) },
		},
		{
			name: "neighbour on a bridge of isolated ports, ARP (default capabilities)", expected: always(nothingRead),
			defence: "no token where neighbours can read", success: readByNeighbour,
			run: func(t *testing.T, _ guardMode) string { return neighbourReads(t, true) },
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
		n.delivery.Trigger()
		all = append(all, seenBy(p, dialFrom(t, p, dialing{To: imds})))
	}
	return worst(held, all...)
}

// passedOn has a caller held until its pod proves to pass, and its connection
// passed on to the metadata service as the broker does, where a rule of the
// platform's on the node drops what that pod sends there.
func passedOn(t *testing.T, _ guardMode) string {
	n := newNode(t, options{})
	p := n.stranger(t, lab.PodOptions{})
	dropTo(t, p.Address, imds.Addr())
	n.instead.Store(func(c net.Conn, cookie uint64) {
		n.pods.set(workload.Pod{UID: p.UID, Name: p.UID, Decision: pass})
		n.splice(c, cookie)
	})
	return seenBy(p, dialFrom(t, p, dialing{To: imds}))
}

// splice answers with what the metadata service says when it is dialled from
// the caller's namespace.
func (n *node) splice(c net.Conn, cookie uint64) {
	defer c.Close()
	a := answer{Err: "not passed on"}
	caller, err := n.prove(c, cookie)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		var up net.Conn
		if up, err = n.delivery.Dial(ctx, caller, imds.String()); err == nil {
			defer up.Close()
			err = json.NewDecoder(up).Decode(&a)
		}
	}
	if err != nil {
		a.Err = err.Error()
	}
	json.NewEncoder(c).Encode(a)
}

// dropTo has the node drop what comes from one address for another, until the
// test ends.
func dropTo(t *testing.T, from net.IP, to netip.Addr) {
	t.Helper()
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("needs nft: apt-get install nftables")
	}
	rules := fmt.Sprintf("table ip sidestep_test { chain in { type filter hook prerouting priority 0; "+
		"ip saddr %s ip daddr %s drop; }; }", from, to)
	out, err := exec.CommandContext(t.Context(), nft, rules).CombinedOutput()
	if err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	t.Cleanup(func() {
		check(t, exec.CommandContext(context.Background(), nft, "delete table ip sidestep_test").Run())
	})
}

const neverServed = "refused all the time"

// firstStart has a labelled pod ask from before the first agent starts on its
// node until some time after that has found a mistake in its flags.
func firstStart(t *testing.T, guard guardMode) string {
	if *agentProgram == "" {
		t.Skip("needs the agent's program: make test-attack")
	}
	var file federation.File
	p := addIdentity(&file, "one")
	s, err := scene.Open(t.Context(), scene.Options{
		Agent: *agentProgram, Guard: guard.String(), Federation: file, VaultName: "vault", Unready: true,
		Flags: []string{"--ca-file", "/missing.crt"}, Workloads: []*scene.Workload{p},
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

// changedFrom waits until the verdict is not applied any more.
func (n *node) changedFrom(t *testing.T, cgroup string, was workload.Verdict) {
	t.Helper()
	id, err := lab.CgroupID(cgroup)
	check(t, err)
	eventually(t, was.String()+" is not applied for "+cgroup, func() bool {
		e, ok, err := n.hooks.Verdict(id)
		check(t, err)
		return !ok || e.Verdict != was
	})
}
