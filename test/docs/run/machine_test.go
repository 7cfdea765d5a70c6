package run

import (
	"bufio"
	"flag"
	"io"
	"os"
	"os/exec"
	"regexp"
	"testing"

	"github.com/sidestep-agent/sidestep/test/docs/blocks"
	"github.com/sidestep-agent/sidestep/test/suite"
)

const root = "../../.."

var (
	crane   = flag.String("crane", "", "crane, for a registry to push to (make test-docs)")
	clients = flag.Bool("clients", false, "the clients are installed: run what needs them, instead (make test-clients)")
)

// The README's blocks are those of README.ja.md: test/docs holds that.
var translated = map[string]bool{"README.ja.md": true}

// Each block does, as it stands, what its page says.
func TestBlocks(t *testing.T) {
	suite.Need(t, "test-docs")
	if os.Geteuid() != 0 {
		t.Fatal("the demo needs root")
	}
	place, tree, variables := blocks.Machine, root, []string{"MAKEFLAGS="} // no jobs of the make that runs this test
	if *clients {
		place, tree = blocks.Clients, copied(t)
	} else {
		variables = append(variables, "registry="+registry(t))
	}
	pages, err := blocks.Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for page := range pages {
		if all, err := blocks.In(root, page, place); err == nil && !translated[page] {
			ran += len(all)
			t.Run(page, func(t *testing.T) { runAll(t, all, tree, variables) })
		}
	}
	if ran == 0 {
		t.Errorf("no block runs on %s", place)
	}
}

func runAll(t *testing.T, all []blocks.Block, tree string, variables []string) {
	t.Helper()
	shell, err := blocks.StartHere(t.Context(), t.TempDir(), tree, variables...)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range all {
		printed, err := shell.Run(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.CheckShown(printed); err != nil {
			t.Errorf("%s: %v", b, err)
		}
		t.Logf("%s:\n%s", b, printed)
	}
	if err := shell.Close(); err != nil {
		t.Error(err)
	}
}

// copied returns a copy of the tree, with what was built: recorded requests are
// different each time, and are to be looked at before they are committed.
func copied(t *testing.T) string {
	t.Helper()
	tree := t.TempDir()
	script := `cd "$0"
		git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- | tar --extract --directory="$1"
		ln -s "$PWD/out" "$1/out"`
	if out, err := exec.CommandContext(t.Context(), "bash", "-euc", "set -o pipefail; "+script, root, tree).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return tree
}

// registry starts one on the loopback, in memory, and returns its address.
func registry(t *testing.T) string {
	t.Helper()
	if *crane == "" {
		t.Fatal("which crane? Run make test-docs")
	}
	serve := exec.CommandContext(t.Context(), *crane, "registry", "serve", "--address", "127.0.0.1:0")
	log, err := serve.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = serve.Process.Kill()
		_ = serve.Wait()
	})
	// Its first line names the port; the rest is read lest it waits for us.
	lines := bufio.NewReader(log)
	said, err := lines.ReadString('\n')
	port := regexp.MustCompile(`port (\d+)`).FindStringSubmatch(said)
	if port == nil {
		t.Fatalf("the registry says %q: %v", said, err)
	}
	go io.Copy(io.Discard, lines)
	return "127.0.0.1:" + port[1]
}
