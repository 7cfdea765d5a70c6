// Command attack runs the attack suite (test/kernel) and prints the
// results. Each attack is run as things are, and once more against a build from
// which the defence in question was taken: there it must succeed, or the suite
// would prove nothing. Nothing of this is in the agent.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sidestep-agent/sidestep/test/overlay"
	testsuite "github.com/sidestep-agent/sidestep/test/suite"
)

// result is one line that the suite writes.
type result struct {
	Attack, Capabilities, Guard, Expected, Seen, Defence, Note string
}

var (
	only  = flag.String("only", "", "the one defence to remove, in place of the whole suite")
	quick = flag.Bool("quick", false, "remove no defence: a few minutes in place of ten")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "attack:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "sidestep-attack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := suite{dir: dir}
	printHeader()
	if *only != "" {
		return s.tryOnly(ctx, *only)
	}
	if err := s.try(ctx, nil); err != nil {
		return err
	}
	if *quick {
		return s.judge(0)
	}
	fmt.Println("\neach defence removed, so that its attacks must succeed:")
	for _, d := range defences {
		if err := s.try(ctx, &d); err != nil {
			return err
		}
	}
	return s.judge(len(defences))
}

// tryOnly removes one defence, to work on it or on its attacks.
func (s *suite) tryOnly(ctx context.Context, name string) error {
	i := slices.IndexFunc(defences, func(d defence) bool { return d.name == name })
	if i < 0 {
		return fmt.Errorf("there is no defence %q to remove", name)
	}
	if err := s.try(ctx, &defences[i]); err != nil {
		return err
	}
	if len(s.failed) > 0 {
		return errors.New("not as expected: " + strings.Join(s.failed, "; "))
	}
	return nil
}

// suite is one run of everything.
type suite struct {
	dir     string
	results []result
	named   []string // defences that some attack is said to meet
	failed  []string
}

// try builds the tests, without the defence if one is given, and runs the
// attacks on it, else all of them.
func (s *suite) try(ctx context.Context, d *defence) error {
	results := filepath.Join(s.dir, "results")
	if err := os.WriteFile(results, nil, 0o600); err != nil {
		return err
	}
	build := []string{"test", "-c", "-o", filepath.Join(s.dir, "kernel.test")}
	agent := []string{"build", "-o", filepath.Join(s.dir, "agent")}
	args := []string{"-test.run", "^TestAttacks$", "-test.timeout", "15m", "-attack.results", results,
		"-attack.agent", filepath.Join(s.dir, "agent")}
	without := ""
	if d != nil {
		changed, err := overlay.Write(ctx, filepath.Join(s.dir, "without"), d.changes())
		if err != nil {
			return fmt.Errorf("remove %q: %w", d.name, err)
		}
		build, agent = append(build, "-overlay", changed), append(agent, "-overlay", changed)
		args, without = append(args, "-attack.without", d.name), d.name
	}
	builds := [][]string{append(build, "./test/kernel")}
	if d == nil || d.agent {
		builds = append(builds, append(agent, "./cmd/agent"))
	}
	for _, b := range builds {
		if out, err := exec.CommandContext(ctx, "go", b...).CombinedOutput(); err != nil {
			return fmt.Errorf("build without %q: %w\n%s", without, err, out)
		}
	}
	return s.attack(ctx, args, results, without)
}

func (s *suite) attack(ctx context.Context, args []string, results, without string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(s.dir, "kernel.test"), args...)
	cmd.Dir = "test/kernel"
	cmd.Env = append(os.Environ(), testsuite.Variable+"=1")
	out, failed := cmd.CombinedOutput()
	got, err := read(results)
	if err != nil {
		return err
	}
	if len(got) == 0 {
		return fmt.Errorf("no attack was tried: %w\n%s", failed, out)
	}
	for _, r := range got {
		printResult(r, without)
		if r.Seen != r.Expected {
			s.failed = append(s.failed, r.Attack)
		}
		if without == "" && r.Defence != "" {
			s.named = append(s.named, r.Defence)
		}
	}
	s.results = append(s.results, got...)
	if failed != nil {
		s.failed = append(s.failed, "the tests")
		fmt.Printf("%s\n", out)
	}
	return nil
}

// judge says whether all went as expected, and nothing was left out; removed is
// how many defences were removed.
func (s *suite) judge(removed int) error {
	var known []string
	for _, d := range defences {
		known = append(known, d.name)
		if !slices.Contains(s.named, d.name) {
			return fmt.Errorf("no attack is said to meet the defence %q", d.name)
		}
	}
	for _, name := range s.named {
		if !slices.Contains(known, name) {
			return fmt.Errorf("there is no defence %q to remove", name)
		}
	}
	fmt.Printf("\nattack: %d attempts, %d not as expected", len(s.results), len(s.failed))
	if removed > 0 {
		fmt.Printf("; %d defences shown to be needed", removed)
	}
	fmt.Println()
	if len(s.failed) > 0 {
		return errors.New("not as expected: " + strings.Join(s.failed, "; "))
	}
	return nil
}

func read(path string) ([]result, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []result
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var r result
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

const format = "%-55s %-20s %-7s %-34s %-34s %s\n"

func printHeader() { fmt.Printf(format, "ATTACK", "CAPABILITIES", "GUARD", "EXPECTED", "SEEN", "") }

func printResult(r result, without string) {
	mark := "as expected"
	if without != "" {
		mark += ", without: " + without
	}
	if r.Seen != r.Expected {
		mark = "NOT AS EXPECTED"
	}
	if r.Note != "" {
		mark += "; " + r.Note
	}
	fmt.Printf(format, r.Attack, r.Capabilities, r.Guard, r.Expected, r.Seen, mark)
}
