package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sidestep-agent/sidestep/test/docs/blocks"
)

const repository = "../../.."

// translated is the page whose blocks are README.md's, as a test of the pages
// holds.
const translated = "README.ja.md"

// step is what has to be so before a block, or is checked after it: on a
// cluster the user's own doing, or Azure's.
type step struct {
	block  string // a piece of its text
	before func(*testing.T)
	after  func(t *testing.T, printed string)
}

// page is a page whose commands the test runs in the node.
type page struct {
	name      string
	variables map[string]string // those that it leaves to its reader
	shop      bool              // there is the application that it speaks of
	begin     func(*testing.T)  // nil: nothing
	steps     []step
}

// The commands of the pages do on a node, as they stand, what the pages say.
func TestPages(t *testing.T) {
	needNode(t)
	d := newDesk(t)
	table := d.pages()
	checkAllPagesAreRun(t, table)
	for _, p := range table {
		t.Run(p.name, func(t *testing.T) {
			t.Cleanup(func() { leave(t) })
			if p.shop {
				shop(t)
			}
			if p.begin != nil {
				p.begin(t)
			}
			d.run(t, p)
		})
	}
}

func checkAllPagesAreRun(t *testing.T, table []page) {
	t.Helper()
	run := map[string]bool{translated: true}
	for _, p := range table {
		run[p.name] = true
	}
	all, err := blocks.Pages(repository)
	if err != nil {
		t.Fatal(err)
	}
	for name := range all {
		if _, err := blocks.In(repository, name, blocks.Node); err == nil && !run[name] {
			t.Errorf("no test runs the commands of %s", name)
		}
	}
}

// desk is where somebody types: a folder that has what a checkout has, and the
// programs that the pages call. The node can write to /tmp alone.
type desk struct{ folder, bin, work string }

func newDesk(t *testing.T) desk {
	t.Helper()
	folder, err := os.MkdirTemp("/tmp", "sidestep-pages-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	d := desk{folder, filepath.Join(folder, "bin"), filepath.Join(folder, "work")}
	for _, dir := range []string{d.bin, d.work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := filepath.Abs(repository)
	if err != nil {
		t.Fatal(err)
	}
	d.make(t, `
		ln -s "$0/manifests" "$0/charts" "$0/test" "$2/"
		cp -R "$0/manifests" "$2/copy"
		sed -i s/sidestep-canary/shop/ "$2/copy/overlays/canary/config.yaml"
		cd "$0"
		CGO_ENABLED=0 go build -trimpath -o "$1/" ./cmd/agent ./cmd/kubectl-sidestep
		go -C test/manifests run . -render "$2/out/manifests" -image docker.io/library/sidestep-agent:v0.1.0
		ln -s "$(make --silent helm | tail -n 1)" "$1/helm"
		cp test/node/e2e/testdata/az "$1/"`, tree)
	return d
}

func (d desk) make(t *testing.T, script, tree string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-euc", script, tree, d.bin, d.work)
	cmd.Env = append(os.Environ(), "MAKEFLAGS=") // no jobs of the make that runs this test
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// run runs the page's blocks for the node in one shell in the node.
func (d desk) run(t *testing.T, p page) {
	t.Helper()
	all, err := blocks.In(repository, p.name, blocks.Node)
	if err != nil {
		t.Fatal(err)
	}
	p.checkSteps(t, all)
	shell, err := blocks.Start(d.folder, exec.CommandContext(t.Context(), scripts+"/exec.sh", append([]string{
		"bash", "-euc", `cd "$0"; PATH=$1:$PATH HOME=$0; shift; exec env "$@" bash`, d.work, d.bin,
	}, d.environment(p)...)...))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range all {
		s := p.of(b)
		if s.before != nil {
			s.before(t)
		}
		printed, err := shell.Run(b)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s:\n%s%s", b, b.Text, printed)
		if s.after != nil {
			s.after(t, printed)
		}
	}
	if err := shell.Close(); err != nil {
		t.Error(err)
	}
}

// of returns the step that is the block's, if there is one.
func (p page) of(b blocks.Block) step {
	for _, s := range p.steps {
		if strings.Contains(b.Text, s.block) {
			return s
		}
	}
	return step{}
}

// checkSteps makes sure that each step is of exactly one block.
func (p page) checkSteps(t *testing.T, all []blocks.Block) {
	t.Helper()
	for _, s := range p.steps {
		n := 0
		for _, b := range all {
			if p.of(b).block == s.block {
				n++
			}
		}
		if n != 1 {
			t.Fatalf("%d blocks have %q", n, s.block)
		}
	}
}

// environment is what the stand-in of az answers, and the page's variables.
func (d desk) environment(p page) []string {
	one := identity("app-one")
	all := []string{
		"AZ_TENANT_ID=" + one.TenantID, "AZ_ISSUER=" + known.Issuer, "AZ_CLIENT_ID=" + one.ClientID,
		"AZ_PRINCIPAL_ID=" + one.PrincipalID, "AZ_RESOURCE_ID=" + one.ResourceID,
		"AZ_IDENTITIES=" + filepath.Join(d.folder, "identities"),
	}
	for name, value := range p.variables {
		all = append(all, name+"="+value)
	}
	return all
}
