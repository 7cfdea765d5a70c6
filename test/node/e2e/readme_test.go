package e2e

import (
	"testing"

	"github.com/sidestep-agent/sidestep/test/docs/blocks"
)

// What the README shows as the first token on the node, by its own commands and
// with its own output.
func TestFirstToken(t *testing.T) {
	needNode(t)
	all, err := blocks.In(repository, "README.md", blocks.Rig)
	if err != nil {
		t.Fatal(err)
	}
	shell, err := blocks.StartHere(t.Context(), t.TempDir(), repository, "MAKEFLAGS=")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		kubectl(t, "-n", teamA, "delete", "pod", "app", "--wait=false")
		// Its namespace is one of the tests' own, with more labels.
		if err := furnish(); err != nil {
			t.Error(err)
		}
	})
	for _, b := range all {
		printed, err := shell.Run(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.CheckShown(printed); err != nil {
			t.Errorf("%s: %v", b, err)
		}
	}
	if err := shell.Close(); err != nil {
		t.Error(err)
	}
}
