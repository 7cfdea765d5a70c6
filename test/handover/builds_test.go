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
	takeGo     = "pkg/handover/take.go"
)

// raised is a program whose hand-over has one version more.
var raised = []overlay.Edit{{
	File: versionsGo, Old: "var spoken = versions{Lowest: 1, Highest: 1}", New: "var spoken = versions{Lowest: 1, Highest: 2}",
}}

// momentFile names a moment of a hand-over, and what happens to the process that
// comes to it first.
const momentFile = "/run/moment"

// The moments, besides each kind of message that a successor gets.
const (
	asked = "asked" // the successor has asked
	heard = "heard" // the holder has heard that the successor has everything
)

// momentary is a program of another version that ends or stops at the moment
// that the file names.
var momentary = append([]overlay.Edit{
	{File: versionsGo, Old: "func step() time.Duration {", New: `func moment(name string) {
	text, _ := os.ReadFile("` + momentFile + `")
	switch string(text) {
	case name + " stop":
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGSTOP)
	case name + " kill":
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func step() time.Duration {`},
	{File: holderGo, Old: "// The one point at which the lock passes:", New: "moment(\"" + heard + "\")\n\t// The one point at which the lock passes:"},
	{File: takeGo, Old: "h := heritage{", New: "moment(\"" + asked + "\")\n\th := heritage{"},
	{File: takeGo, Old: "done, err := h.add(m, file)", New: "moment(string(m.Kind))\n\t\tdone, err := h.add(m, file)"},
}, raised...)

// at has a moment end (kill) or stop (stop) the process that comes to it; ""
// none.
func at(t *testing.T, moment, what string) {
	t.Helper()
	if moment == "" {
		check(t, os.Remove(momentFile))
		return
	}
	check(t, os.WriteFile(momentFile, []byte(moment+" "+what), 0o600))
}

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
