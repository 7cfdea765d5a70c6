package handover

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sidestep-agent/sidestep/test/handover/changes"
	"github.com/sidestep-agent/sidestep/test/overlay"
)

// at has a moment end (kill) or stop (stop) the process that comes to it, or
// hold up what it does there alone (pause) until another is named; "" none.
func at(t *testing.T, moment, what string) {
	t.Helper()
	if moment == "" {
		check(t, os.Remove(changes.MomentFile))
		return
	}
	check(t, os.WriteFile(changes.MomentFile, []byte(moment+" "+what), 0o600))
}

// buildsDir is where builds are kept until the suite has ended, root the tree's.
var buildsDir, root string

func withBuilds(run func() int) int {
	var err error
	if buildsDir, err = os.MkdirTemp("", "sidestep-handover-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(buildsDir) }()
	if root, err = filepath.Abs("../.."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return run()
}

// build returns the path of the agent's program with changed sources, which is
// built once under the name.
func build(t *testing.T, name string, edits []overlay.Edit) string {
	t.Helper()
	dir := filepath.Join(buildsDir, name)
	program := filepath.Join(dir, "agent")
	if _, err := os.Stat(program); err == nil {
		return program
	}
	t.Chdir(root)
	changed, err := overlay.Write(t.Context(), filepath.Join(dir, "changed"), edits)
	check(t, err)
	// With the flags of `make build`, so that most of it is in Go's cache.
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-overlay", changed, "-o", program, "./cmd/agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build with changed sources: %v\n%s", err, out)
	}
	return program
}
