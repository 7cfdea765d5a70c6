package handover

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/load"
	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/entra"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
)

var (
	program = flag.String("handover.agent", "", "path of the agent's program")
	rounds  = flag.Int("handover.rounds", 20, "how often the agent is replaced")
	rolls   = flag.Int("handover.rolls", 5, "how often it is replaced by one of another version, and back")

	layoutRolls = flag.Int("handover.layout-rolls", 2, "how often it is replaced by one with maps of another layout, and back")
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(lab.Suite("test-handover", func() int { return withBuilds(m.Run) }))
}

const (
	pods    = 4
	tenant  = "5f5f8e5a-6d3c-4d0a-9a44-4fae7e1d2f00"
	workers = 12 // of each kind, in each pod
	every   = 140 * time.Millisecond
	idle    = 1500 * time.Millisecond
)

// No request is lost or answered wrongly while one agent replaces another, and
// Entra is asked once for each pod's token, by the first of them.
func TestUpgradesUnderLoad(t *testing.T) {
	s, all := open(t)
	ended := begin(t, all)
	// What is on its way to Entra at a hand-over is asked for twice.
	awaitIssued(t, s, pods)
	started := time.Now()
	for i := range *rounds {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if err := s.Upgrade(ctx); err != nil {
			t.Errorf("upgrade %d: %v", i+1, err)
		}
		cancel()
		if t.Failed() {
			break
		}
	}
	sum := ended()
	took := time.Since(started)
	t.Logf("%d upgrades in %.1f s, %d requests (%.0f a second): %d failed, %d reset, %d wrong; %d asked to leave",
		*rounds, took.Seconds(), sum.Requests, float64(sum.Requests)/took.Seconds(), sum.Failed, sum.Reset, sum.Wrong, sum.Closing)
	for _, note := range sum.Notes {
		t.Error(note)
	}
	if sum.Requests == 0 || sum.Closing == 0 {
		t.Error("no load, or no client with a connection that was to end")
	}
	if n := issued(t, s); n != pods {
		t.Errorf("Entra issued %d tokens, want %d: one for each pod", n, pods)
	}
	if t.Failed() {
		t.Log(s.Agent.LastWords())
	}
}

// issued counts the tokens that Entra was asked for.
func issued(t *testing.T, s *scene.Scene) (n int) {
	t.Helper()
	log, err := scene.Entries[entra.Entry](&s.Cloud.Logs.Entra)
	check(t, err)
	for _, e := range log {
		if e.Kind == entra.Token {
			n++
		}
	}
	return n
}

func awaitIssued(t *testing.T, s *scene.Scene, want int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); issued(t, s) < want; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("Entra issued %d tokens, want %d", issued(t, s), want)
		}
	}
}

// begin has all pods ask for tokens. The function ends it, and returns what
// came of it.
func begin(t *testing.T, all []*scene.Workload) (end func() load.Tally) {
	t.Helper()
	until := t.TempDir() + "/enough"
	var group errgroup.Group
	sums := make([]load.Tally, 2*len(all))
	for i := range sums {
		w := all[i/2]
		group.Go(func() (err error) {
			sums[i], err = w.Ask(context.Background(), until, load.Options{
				Keep: i%2 == 0, Workers: workers, Every: every, Idle: idle,
				Client: w.Annotations[scene.ClientIDAnnotation],
			})
			return err
		})
	}
	return func() (sum load.Tally) {
		check(t, os.WriteFile(until, nil, 0o600))
		check(t, group.Wait())
		for _, one := range sums {
			sum.Add(one)
		}
		return sum
	}
}

// open returns a scene with pods that have an identity each.
func open(t *testing.T) (*scene.Scene, []*scene.Workload) {
	t.Helper()
	if *program == "" {
		t.Fatal("needs the agent's program: run make test-handover")
	}
	id := func(kind, n int) string { return fmt.Sprintf("%08d-0000-4000-8000-%012d", kind, n) }
	resource := func(name string) string {
		return "/subscriptions/58a1e4c9-0d7b-4e36-a2f8-b9c6d3715e06/resourceGroups/lab" +
			"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + name
	}
	file := federation.File{
		Issuer: scene.IssuerURL, Tenants: []string{tenant}, Resources: []string{"https://vault.azure.net"},
		NodeIdentity: federation.NodeIdentity{
			TenantID: tenant, ClientID: id(8, 1), PrincipalID: id(9, 1), ResourceID: resource("node"),
		},
	}
	var all []*scene.Workload
	for n := range pods {
		name := fmt.Sprintf("app-%d", n)
		file.Identities = append(file.Identities, federation.Identity{
			Name: name, TenantID: tenant, ClientID: id(1, n), PrincipalID: id(2, n), ResourceID: resource(name),
			FederatedCredentials: []federation.Credential{{Subject: "system:serviceaccount:shop:" + name}},
		})
		all = append(all, &scene.Workload{
			Namespace: "shop", Name: name, Account: name, Federated: true,
			Labels:      map[string]string{scene.UseLabel: "true"},
			Annotations: map[string]string{scene.ClientIDAnnotation: id(1, n)},
		})
	}
	s, err := scene.Open(t.Context(), scene.Options{
		Agent: *program, Federation: file, VaultName: "vault", Workloads: all,
	})
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	return s, all
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
