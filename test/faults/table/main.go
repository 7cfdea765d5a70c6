// Command table runs the tests that make faults, in a lab, before a stand-in for
// Entra and on a real Kubernetes node, and prints one table of them: what was
// expected of each, and what was seen. It fails if a row has.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"

	"github.com/sidestep-agent/sidestep/test/suite"
)

func main() {
	agent := flag.String("agent", "out/agent", "path of the agent's program")
	quick := flag.Bool("quick", false, "only what is quick, in the lab")
	flag.Parse()
	path, err := filepath.Abs(*agent) // the tests run in their own directories
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err = run(ctx, newTable(os.Stdout, *quick), suites(path, *quick))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
}

// suites returns the arguments of each `go test`.
func suites(agent string, quick bool) [][]string {
	lab := []string{"./test/faults", "-timeout=10m", "-faults.agent=" + agent}
	if quick {
		return [][]string{append(lab, "-short")}
	}
	return [][]string{
		lab,
		{"./test/handover", "-timeout=5m", "-run=^(TestRolledBetweenVersions|TestHolderWithoutAProcessor|TestSuccessorKilledAtEachStep)$", "-handover.agent=" + agent, "-handover.rolls=20"},
		// The clock that is set is the one that the engine and the broker read.
		{"./test/outages", "-timeout=5m", "-run=^(TestFaults|TestRotatedCAIsTrustedWithoutARestart)$/^fault$/node's_clock"},
		{"./test/node/e2e", "-timeout=20m", "-run=^TestFault"},
	}
}

func run(ctx context.Context, t *table, suites [][]string) error {
	for _, args := range suites {
		if err := try(ctx, t, args); err != nil {
			return err
		}
	}
	return t.judge()
}

// try runs one suite. That it fails is for the table to say.
func try(ctx context.Context, t *table, args []string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json", "-count=1"}, args...)...)
	cmd.Env = append(os.Environ(), suite.Variable+"=1")
	cmd.Stderr = os.Stderr
	events, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	rows := len(t.rows)
	readErr := t.read(events)
	failed := cmd.Wait()
	if readErr != nil {
		return errors.Join(readErr, failed)
	}
	if len(t.rows) == rows {
		return fmt.Errorf("%s showed nothing: %w", args[0], errors.Join(errNoRow, failed))
	}
	if failed != nil && !t.failed("") {
		return fmt.Errorf("%s: %w", args[0], failed)
	}
	return ctx.Err()
}

var errNoRow = errors.New("no row of the table")
