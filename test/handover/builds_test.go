package handover

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sidestep-agent/sidestep/test/overlay"
)

const (
	versionsGo = "pkg/handover/message.go"
	holderGo   = "pkg/handover/holder.go"
)

// raised is a program whose hand-over has one version more.
var raised = []overlay.Edit{{
	File: versionsGo, Old: "var spoken = versions{Lowest: 1, Highest: 1}", New: "var spoken = versions{Lowest: 1, Highest: 2}",
}}

// stopping is a program that stops at the worst moment of handing over: the
// successor has said that it has all, and has not heard that it may serve.
var stopping = []overlay.Edit{{
	File: holderGo, Old: "// The one point at which the lease passes:",
	New: "_ = syscall.Kill(syscall.Getpid(), syscall.SIGSTOP)\n\t// The one point at which the lease passes:",
}}

// buildsDir is where builds are kept until the suite has ended.
var buildsDir string

func withBuilds(run func() int) int {
	var err error
	if buildsDir, err = os.MkdirTemp("", "sidestep-handover-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(buildsDir) }()
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
	t.Chdir("../..")
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
