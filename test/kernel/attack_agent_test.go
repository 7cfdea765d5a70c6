package kernel

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
	imdsstandin "github.com/sidestep-agent/sidestep/test/standins/imds"
)

var agentProgram = flag.String("attack.agent", "", "path of the agent's program, for the attacks on it")

const (
	servedThenRefused = "served, then refused"
	servedHeldServed  = "served, held, served again"
)

// agentAttacks put the agent's own program out of action while pods ask it for
// tokens.
func agentAttacks() []attack {
	return []attack{
		{
			name: "agent killed (-9) under load", expected: always(servedThenRefused),
			defence: "pinned links", success: nodeIdentity, without: guardOff,
			run: func(t *testing.T, guard guardMode) string {
				return agentUnderLoad(t, guard, servedThenRefused, syscall.SIGKILL)
			},
		},
		{
			name: "agent stopped (SIGSTOP) under load", expected: always(servedHeldServed),
			defence: "connect hooks", success: nodeIdentity, without: guardOff,
			run: func(t *testing.T, guard guardMode) string {
				return agentUnderLoad(t, guard, servedHeldServed, syscall.SIGSTOP, syscall.SIGCONT)
			},
		},
	}
}

const tenant = "5f5f8e5a-6d3c-4d0a-9a44-4fae7e1d2f00"

// agentUnderLoad has two pods ask for tokens all the time, and gives the agent
// the signals a second apart.
func agentUnderLoad(t *testing.T, guard guardMode, whole string, signals ...syscall.Signal) string {
	if *agentProgram == "" {
		t.Skip("needs the agent's program: make test-attack")
	}
	var file federation.File
	var pods []*scene.Workload
	for _, name := range []string{"one", "two"} {
		pods = append(pods, addIdentity(&file, name))
	}
	s, err := scene.Open(t.Context(), scene.Options{
		Agent: *agentProgram, Guard: guard.String(), Federation: file, VaultName: "vault", Workloads: pods,
	})
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	period := time.Duration(len(signals)+1) * time.Second
	sums := make([]asked, len(pods))
	var all errgroup.Group
	for i, p := range pods {
		all.Go(func() (err error) {
			sums[i], err = lab.Run[asking, asked](t.Context(), p.Pod, "ask", asking{period})
			return err
		})
	}
	for _, signal := range signals {
		time.Sleep(time.Second)
		check(t, s.Agent.Signal(signal))
	}
	check(t, all.Wait())
	log, err := scene.Entries[imdsstandin.Entry](&s.Cloud.Logs.IMDS)
	check(t, err)
	for _, e := range log {
		if e.Identity {
			return nodeIdentity
		}
	}
	for i, p := range pods {
		if seen := sums[i].seen(p, whole); seen != whole {
			return seen
		}
	}
	return whole
}

// addIdentity adds an identity with the name, federated to a pod of the name.
func addIdentity(f *federation.File, name string) *scene.Workload {
	n := len(f.Identities) + 1
	id := func(kind int) string { return fmt.Sprintf("%08d-0000-4000-8000-%012d", kind, n) }
	if len(f.Tenants) == 0 {
		*f = federation.File{
			Issuer: scene.IssuerURL, Tenants: []string{tenant}, Resources: []string{"https://vault.azure.net"},
			NodeIdentity: federation.NodeIdentity{
				TenantID: tenant, ClientID: id(8), PrincipalID: id(9), ResourceID: resource("node"),
			},
		}
	}
	f.Identities = append(f.Identities, federation.Identity{
		Name: name, TenantID: tenant, ClientID: id(1), PrincipalID: id(2), ResourceID: resource(name),
		FederatedCredentials: []federation.Credential{{Subject: "system:serviceaccount:attack:" + name}},
	})
	return &scene.Workload{
		Namespace: "attack", Name: name, Account: name, Federated: true,
		Labels:      map[string]string{scene.UseLabel: "true"},
		Annotations: map[string]string{scene.ClientIDAnnotation: id(1)},
	}
}

func resource(name string) string {
	return "/subscriptions/58a1e4c9-0d7b-4e36-a2f8-b9c6d3715e06/resourceGroups/lab" +
		"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + name
}

// asking is for how long a pod asks for tokens, on a connection each.
type asking struct{ For time.Duration }

// asked is whose tokens came, by client id, and what the last answer was.
type asked struct {
	Tokens  map[string]int
	Refused int
	Last    string // a client id, or why there was none
}

func (a asked) seen(p *scene.Workload, whole string) string {
	own := p.Annotations[scene.ClientIDAnnotation]
	for whose := range a.Tokens {
		if whose != own {
			return otherIdentity
		}
	}
	switch {
	case a.Tokens[own] == 0:
		return "never served: " + a.Last
	case a.Refused == 0:
		return "never refused"
	case (a.Last == own) != (whole == servedHeldServed):
		return "at the end: " + a.Last
	}
	return whole
}

func init() { lab.Register("ask", ask) }

func ask(a asking) (asked, error) {
	client := http.Client{Timeout: 300 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}
	sum := asked{Tokens: map[string]int{}}
	// A pod is allowed 200 requests a second.
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	for deadline := time.Now().Add(a.For); time.Now().Before(deadline); <-pace.C {
		who, err := scene.Token(context.Background(), &client)
		if err != nil {
			sum.Refused++
			sum.Last = err.Error()
			continue
		}
		sum.Tokens[who]++
		sum.Last = who
	}
	return sum, nil
}
