package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sidestep-agent/sidestep/test/lab"
	testsuite "github.com/sidestep-agent/sidestep/test/suite"
)

// suite is tests that are run together, and their results so far.
type suite struct {
	name   string
	dir    string // where it runs: its tests' package
	rounds int    // how many it should do, by what one costs
	atOnce int    // how many of its rounds may run at the same time; 0: any number
	test   bool   // the program is the package's tests, else the package itself
	args   []string
	asked  bool // it is no unit test (test/suite)
	tasks  bool // its tasks are run from a program without the race detector
	first  bool // it comes before the others once each of them has run

	program  string
	begun    int
	running  int
	done     int
	failures int
	took     time.Duration // of all rounds that are done
}

// Rounds by cost.
const (
	unitRounds   = 200
	kernelRounds = 100
	labRounds    = 20 // with an agent
	attackRounds = 3
	nodeRounds   = 2
)

// tasksSuffix is what the name of the program for a suite's tasks ends with.
const tasksSuffix = ".tasks"

// rootSuites returns the suites that are no unit tests. Their agent is in out.
func rootSuites(out string) []*suite {
	agent := filepath.Join(out, "agent")
	return []*suite{
		{name: "lab", dir: "test/lab", rounds: kernelRounds, test: true, asked: true, args: []string{"-test.timeout=10m"}},
		// Of this one so many rounds are wanted that it fails in at most 3 %.
		{name: "kernel", dir: "test/kernel", rounds: kernelRounds, test: true, asked: true, tasks: true, first: true, args: []string{
			"-test.timeout=20m", "-test.skip=^TestAttacks$"}},
		{name: "handover", dir: "test/handover", rounds: labRounds, test: true, asked: true, args: []string{
			"-test.timeout=10m", "-handover.agent=" + agent}},
		{name: "faults", dir: "test/faults", rounds: labRounds, test: true, asked: true, args: []string{
			"-test.timeout=20m", "-test.short", "-faults.agent=" + agent}},
		{name: "boot", dir: "test/boot", rounds: labRounds, test: true, asked: true, args: []string{
			"-test.timeout=10m", "-boot.agent=" + agent}},
		// It builds: one without each defence.
		{name: "attack", dir: "test/attack", rounds: attackRounds, atOnce: 1, asked: true},
		// The rig is one for the machine.
		{name: "node", dir: "test/node/e2e", rounds: nodeRounds, atOnce: 1, test: true, asked: true, args: []string{"-test.timeout=40m"}},
	}
}

// buildAll builds the suites' programs in out, and the agent for those that run
// one.
func buildAll(ctx context.Context, out string, all []*suite) error {
	var builds [][]string
	agent := []string{"build", "-race", "-o", filepath.Join(out, "agent"), "./cmd/agent"}
	if slices.ContainsFunc(all, func(s *suite) bool { return s.rounds == labRounds }) {
		builds = append(builds, agent)
	}
	for _, s := range all {
		s.program = filepath.Join(out, strings.ReplaceAll(s.name, "/", "-")+".test")
		build := []string{"build", "-o", s.program, "./" + s.dir}
		if s.test {
			build = []string{"test", "-race", "-c", "-o", s.program, "./" + s.dir}
		}
		builds = append(builds, build)
		if s.tasks {
			builds = append(builds, []string{"test", "-c", "-o", s.program + tasksSuffix, "./" + s.dir})
		}
	}
	for i, args := range builds {
		fmt.Printf("stress: build %d of %d: %s\n", i+1, len(builds), args[len(args)-1])
		if text, err := exec.CommandContext(ctx, "go", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, text)
		}
	}
	return nil
}

// before reports whether the suite's next round comes before that of other: all
// suites run once, then those that come first, then those that have begun the
// least share of their rounds.
func (s *suite) before(other *suite) bool {
	if (s.begun == 0) != (other.begun == 0) {
		return s.begun == 0
	}
	if s.begun > 0 && s.first != other.first {
		return s.first
	}
	return s.begun*other.rounds < other.begun*s.rounds
}

// command returns what runs one round, with its output in the file.
func (s *suite) command(ctx context.Context, log *os.File) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.program, s.args...)
	cmd.Stdout, cmd.Stderr = log, log
	if s.test { // else it is run at the root, as its target runs it
		cmd.Dir = s.dir
	}
	cmd.Env = os.Environ()
	if s.asked {
		cmd.Env = append(cmd.Env, testsuite.Variable+"=1")
	}
	if s.tasks {
		cmd.Env = append(cmd.Env, lab.TasksVariable+"="+s.program+tasksSuffix)
	}
	return cmd
}
