package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/status"
	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
	imdsstandin "github.com/sidestep-agent/sidestep/test/standins/imds"
)

const (
	tenant     = "5f5f8e5a-6d3c-4d0a-9a44-4fae7e1d2f00"
	ownClient  = "00000001-0000-4000-8000-000000000001"
	nodeClient = "00000008-0000-4000-8000-000000000001"
)

func resource(name string) string {
	return "/subscriptions/58a1e4c9-0d7b-4e36-a2f8-b9c6d3715e06/resourceGroups/lab" +
		"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + name
}

// options are a scene with one labelled pod.
func options() (scene.Options, *scene.Workload) {
	app := &scene.Workload{
		Namespace: "shop", Name: "app", Account: "app", Federated: true,
		Labels:      map[string]string{scene.UseLabel: "true"},
		Annotations: map[string]string{scene.ClientIDAnnotation: ownClient},
	}
	return scene.Options{
		Agent: *program, VaultName: "vault", Workloads: []*scene.Workload{app},
		Federation: federation.File{
			Issuer: scene.IssuerURL, Tenants: []string{tenant}, Resources: []string{"https://vault.azure.net"},
			NodeIdentity: federation.NodeIdentity{
				TenantID: tenant, ClientID: nodeClient, PrincipalID: "00000009-0000-4000-8000-000000000001", ResourceID: resource("node"),
			},
			Identities: []federation.Identity{{
				Name: "app", TenantID: tenant, ClientID: ownClient,
				PrincipalID: "00000002-0000-4000-8000-000000000001", ResourceID: resource("app"),
				FederatedCredentials: []federation.Credential{{Subject: "system:serviceaccount:shop:app"}},
			}},
		},
	}, app
}

func init() { lab.Register("ask", ask) }

// ask asks for a token and returns whose came, by client id, or what did
// instead.
func ask(struct{}) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	got, err := scene.Token(ctx, http.DefaultClient)
	if errors.Is(err, unix.ECONNREFUSED) {
		return refused, nil
	}
	return got, err
}

// asks fails unless the pod gets what is expected.
func asks(w *scene.Workload, want string) error {
	got, err := lab.Run[struct{}, string](context.Background(), w.Pod, "ask", struct{}{})
	if err == nil && got != want {
		err = fmt.Errorf("%s gets %q, want %q", w, got, want)
	}
	return err
}

// links returns the kernel's ids of the pinned links.
func links(t *testing.T, n *lab.Node) map[string]link.ID {
	t.Helper()
	pins, err := filepath.Glob(filepath.Join(n.BPFFS, intercept.PinDirectory, "link_*"))
	check(t, err)
	all := map[string]link.ID{}
	for _, pin := range pins {
		l, err := link.LoadPinnedLink(pin, nil)
		check(t, err)
		info, err := l.Info()
		check(t, errors.Join(err, l.Close()))
		all[filepath.Base(pin)] = info.ID
	}
	return all
}

// A pod that starts with the node is refused until the agent runs, which takes
// over what the boot guard attached; and then gets its own identity. While the
// agent runs the boot guard does nothing.
func TestAgentLifts(t *testing.T) {
	needProgram(t)
	forgetLine(t)
	o, app := options()
	var g guard
	o.Booted = func(s *scene.Scene) error {
		g = guard{node: s.Node, stateDir: s.StateDir(), config: filepath.Join(s.StateDir(), "none.yaml")}
		err := boots(s.Node)
		if err == nil {
			_, err = run(g.command()...)
		}
		return err
	}
	var before map[string]link.ID
	o.Unattended = func(s *scene.Scene) error {
		before = links(t, s.Node)
		return asks(app, refused)
	}
	s, err := scene.Open(t.Context(), o)
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	check(t, asks(app, ownClient))
	after := links(t, s.Node)
	delete(after, "link_own_egress") // an agent outside of kubepods has one of its own
	if len(before) != 11 || !equal(before, after) {
		t.Errorf("links %v before and %v after the agent's start", before, after)
	}
	log, err := scene.Entries[imdsstandin.Entry](&s.Cloud.Logs.IMDS)
	check(t, err)
	for _, e := range log {
		t.Errorf("the metadata service was asked %s by %s", e.URI, e.Remote)
	}
	out, err := run(g.command()...)
	check(t, err)
	if !strings.Contains(out, "an agent runs on this node") {
		t.Errorf("beside the agent it said %s", out)
	}
	check(t, asks(app, ownClient))
	if r := report(t, s); r.BootGuard != "held at this boot" || len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "is not kept up to date") {
		t.Errorf("the agent, which keeps no configuration for it, reports %q, %q", r.BootGuard, r.Problems)
	}
}

func equal(a, b map[string]link.ID) bool {
	for name, id := range a {
		if b[name] != id {
			return false
		}
	}
	return len(a) == len(b)
}

// Without the boot guard the same pod has the node's identity until then.
func TestWithoutBootGuard(t *testing.T) {
	needProgram(t)
	o, app := options()
	o.Unattended = func(*scene.Scene) error { return asks(app, nodeClient) }
	s, err := scene.Open(t.Context(), o)
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	check(t, asks(app, ownClient))
	if r := report(t, s); r.BootGuard != "" || len(r.Problems) != 0 {
		t.Errorf("the agent reports %q, %q", r.BootGuard, r.Problems)
	}
}

// report returns what `agent status` says.
func report(t *testing.T, s *scene.Scene) status.Report {
	t.Helper()
	out, err := run(*program, "status", "--state-dir", s.StateDir(), "-o", "json")
	check(t, err)
	var r status.Report
	check(t, json.Unmarshal([]byte(out), &r))
	return r
}

// The agent keeps the boot guard's configuration as its own is, so that a
// cluster that was turned to audit is so at the next boot; what it cannot
// write it reports.
func TestAgentKeepsTheConfiguration(t *testing.T) {
	needProgram(t)
	kept := filepath.Join(t.TempDir(), "sidestep", "boot.yaml")
	o, _ := options()
	o.Flags = []string{"--boot-config", kept}
	s, err := scene.Open(t.Context(), o)
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	eventually(t, func() error { return keeps(kept, config.ModeEnforce) })
	configure(t, s, "mode: audit\n")
	eventually(t, func() error { return keeps(kept, config.ModeAudit) })
	if r := report(t, s); !strings.HasPrefix(r.BootGuard, "has not held") || len(r.Problems) != 0 {
		t.Errorf("the agent reports %q, %q", r.BootGuard, r.Problems)
	}

	check(t, os.RemoveAll(filepath.Dir(kept)))
	check(t, os.WriteFile(filepath.Dir(kept), nil, 0o600)) // in the directory's place
	configure(t, s, "mode: enforce\n")
	eventually(t, func() error {
		if r := report(t, s); len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "will not know the configuration") {
			return fmt.Errorf("the agent reports %q", r.Problems)
		}
		return nil
	})
}

// configure puts a configuration in the place of the agent's at a stroke.
func configure(t *testing.T, s *scene.Scene, fields string) {
	t.Helper()
	check(t, os.WriteFile(s.Agent.Config()+".next", []byte(head+fields), 0o644))
	check(t, os.Rename(s.Agent.Config()+".next", s.Agent.Config()))
}

func keeps(path string, want config.Mode) error {
	c, err := config.Load(path)
	if err == nil && c.Mode != want {
		err = fmt.Errorf("mode %s is kept, want %s", c.Mode, want)
	}
	return err
}

func eventually(t *testing.T, so func() error) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := so()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after 30 s still: %v", err)
		}
	}
}
