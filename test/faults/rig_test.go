package faults

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/sidestep-agent/sidestep/test/faults/row"
	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
	"github.com/sidestep-agent/sidestep/test/standins/imds"
)

const (
	tenant        = "5f5f8e5a-6d3c-4d0a-9a44-4fae7e1d2f00"
	steeredClient = "11111111-0000-4000-8000-000000000001"
	nodeClient    = "88888888-0000-4000-8000-000000000001"

	ownToken  = "its own token"
	nodeToken = "the node's token"
)

// rig is a node with one pod that is steered and one that passes, and the row
// of the table.
type rig struct {
	*scene.Scene
	t                *testing.T
	steered, passing *scene.Workload
	row              row.Row
	saw              []string
	strangers        []*lab.Pod // that must not reach the node's identity either
}

// open makes the node, with the agent running. The row is logged when the test
// ends, however it does.
func open(t *testing.T, fault, expected string, options ...func(*scene.Options)) *rig {
	t.Helper()
	if *program == "" {
		t.Fatal("needs the agent's program: run make test-faults")
	}
	r := &rig{t: t, row: row.Row{Fault: fault, Expected: expected}}
	t.Cleanup(func() {
		r.row.Seen = strings.Join(r.saw, "; ")
		t.Log(r.row)
	})
	r.steered = workload("steered", steeredClient)
	r.steered.Labels = map[string]string{scene.UseLabel: "true"}
	r.passing = workload("passing", "")
	o := scene.Options{
		Agent: *program, Federation: identities(), VaultName: "vault",
		Workloads: []*scene.Workload{r.steered, r.passing},
	}
	for _, change := range options {
		change(&o)
	}
	s, err := scene.Open(t.Context(), o)
	check(t, err)
	r.Scene = s
	t.Cleanup(func() {
		r.checkInvariant()
		if t.Failed() {
			t.Log(s.Agent.LastWords())
		}
		check(t, s.Close())
	})
	return r
}

// workload returns one that may have an identity.
func workload(name, client string) *scene.Workload {
	return &scene.Workload{
		Namespace: "shop", Name: name, Account: name, Federated: client != "",
		Annotations: map[string]string{scene.ClientIDAnnotation: client},
	}
}

func identities() federation.File {
	resource := func(name string) string {
		return "/subscriptions/58a1e4c9-0d7b-4e36-a2f8-b9c6d3715e06/resourceGroups/lab" +
			"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + name
	}
	return federation.File{
		Issuer: scene.IssuerURL, Tenants: []string{tenant}, Resources: []string{"https://vault.azure.net"},
		NodeIdentity: federation.NodeIdentity{
			TenantID: tenant, ClientID: nodeClient,
			PrincipalID: "99999999-0000-4000-8000-000000000001", ResourceID: resource("node"),
		},
		Identities: []federation.Identity{{
			Name: "steered", TenantID: tenant, ClientID: steeredClient,
			PrincipalID: "22222222-0000-4000-8000-000000000001", ResourceID: resource("steered"),
			FederatedCredentials: []federation.Credential{{Subject: "system:serviceaccount:shop:steered"}},
		}},
	}
}

// see adds to what the row says was seen.
func (r *rig) see(format string, args ...any) { r.saw = append(r.saw, fmt.Sprintf(format, args...)) }

// want fails the test, and ends it, unless the pod's next request brings that.
func (r *rig) want(w *scene.Workload, what string) {
	r.t.Helper()
	if got := r.ask(w); got != what {
		r.t.Fatalf("%s got: %s, want %s", w, got, what)
	}
}

// checkInvariant: whatever happened, no steered pod asked the node's metadata
// service for an identity.
func (r *rig) checkInvariant() {
	r.t.Helper()
	log, err := scene.Entries[imds.Entry](&r.Cloud.Logs.IMDS)
	check(r.t, err)
	var closed []string
	for _, p := range append(r.strangers, r.steered.Pod) {
		closed = append(closed, p.Address.String())
	}
	for _, e := range log {
		host, _, err := net.SplitHostPort(e.Remote)
		check(r.t, err)
		if e.Identity && slices.Contains(closed, host) {
			r.t.Fatalf("a steered pod reached the node's identity: %+v", e)
		}
	}
}

// eventually waits until so.
func (r *rig) eventually(what string, so func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(40 * time.Second); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("still not so: %s", what)
		}
	}
}

// logged waits until the agent's log says that.
func (r *rig) logged(says string) {
	r.t.Helper()
	r.eventually("the log says: "+says, func() bool { return strings.Contains(string(r.Agent.Log.Whole()), says) })
}

// metrics returns the values of a metric, by their labels' values in the
// labels' order; none while the agent does not answer.
func (r *rig) metrics(name string) map[string]float64 {
	r.t.Helper()
	text, err := scene.Metrics(r.t.Context())
	if err != nil {
		return nil
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	check(r.t, err)
	all := map[string]float64{}
	for _, m := range families[name].GetMetric() {
		var labels []string
		for _, l := range m.GetLabel() {
			labels = append(labels, l.GetValue())
		}
		all[strings.Join(labels, " ")] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	return all
}

// repaired waits until the agent has counted at least that many repairs of
// that cause.
func (r *rig) repaired(cause string, least int) {
	r.t.Helper()
	counted := 0
	r.eventually(fmt.Sprintf("%d repairs are counted: %s", least, cause), func() bool {
		counted = 0
		for name, n := range r.metrics("sidestep_repairs_total") {
			if strings.HasPrefix(name, cause+" ") {
				counted += int(n)
			}
		}
		return counted >= least
	})
	r.see("put back and counted: %d %s", counted, cause)
}

// problem waits until `agent status` says so.
func (r *rig) problem(says string) {
	r.t.Helper()
	r.eventually("`agent status` says: "+says, func() bool {
		report, err := r.Agent.Status(r.t.Context())
		return err == nil && strings.Contains(strings.Join(report.Problems, "\n"), says)
	})
}

// sound waits until `agent status` knows of no problem.
func (r *rig) sound() {
	r.t.Helper()
	r.eventually("`agent status` knows of no problem", func() bool {
		report, err := r.Agent.Status(r.t.Context())
		return err == nil && report.Ready && len(report.Problems) == 0
	})
}
