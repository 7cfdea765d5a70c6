package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/scene"
)

// patience ends a run that hangs; a good one takes some ten minutes.
const patience = 30 * time.Minute

// options are the program's flags.
type options struct {
	agent  string // paths of programs
	first  string
	output string // table or json
	out    string // directory
	only   string // parts, with commas between; empty: all
	starts int

	slowStarts int
	restPods   int
}

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		os.Exit(2)
	}
	os.Exit(lab.Main(func() int { return run(o, os.Stdout) }))
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.agent, "agent", "out/agent", "the agent's program")
	flags.StringVar(&o.first, "firstprocess", "out/firstprocess", "the program that pods run first")
	flags.StringVar(&o.output, "o", "table", "what is printed: table or json")
	flags.StringVar(&o.out, "out", "out", "directory for bench.json; empty: none")
	flags.StringVar(&o.only, "only", "", "measure these of kernel,line,cached,first,starts,passing,bridge,node,floods,rest alone")
	flags.IntVar(&o.starts, "starts", 3000, "how many pods are started one by one, in each of starts, passing and bridge")
	flags.IntVar(&o.slowStarts, "slow-starts", 300, "how many of bridge are started with a slow API server")
	flags.IntVar(&o.restPods, "rest-pods", crowdPods, "how many pods run while nobody asks anything, in rest")
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	if o.output != "table" && o.output != "json" {
		fmt.Fprintf(stderr, "bench: -o is %q, want table or json\n", o.output)
		return options{}, errors.New("-o")
	}
	for _, path := range []*string{&o.agent, &o.first, &o.out} {
		if *path == "" {
			continue
		}
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return options{}, err
		}
		*path = absolute
	}
	return o, nil
}

// run measures inside the lab and returns the exit status.
func run(o options, stdout io.Writer) int {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r := newReport()
	err := measure(ctx, o, r)
	r.Seconds = time.Since(r.At).Seconds()
	if err == nil {
		err = r.publish(o, stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	if r.failed() > 0 {
		return 1
	}
	return 0
}

func measure(ctx context.Context, o options, r *report) error {
	if o.wants("kernel") {
		if err := inDirectory(func(dir string) error { return measureKernel(dir, r) }); err != nil {
			return fmt.Errorf("kernel: %w", err)
		}
	}
	if o.wants("line") {
		if err := inDirectory(func(dir string) error { return measureLine(dir, r) }); err != nil {
			return fmt.Errorf("line: %w", err)
		}
	}
	if o.only != "" && !o.wantsAny("cached", "first", "starts", "passing", "bridge", "node", "floods", "rest") {
		return nil
	}
	s, w, err := openScene(ctx, o)
	if err != nil {
		return fmt.Errorf("set the scene: %w", err)
	}
	if err = measureScene(ctx, o, s, w, r); err != nil {
		err = fmt.Errorf("%w\n%s", err, s.Agent.LastWords())
	}
	return errors.Join(err, s.Close())
}

func inDirectory(f func(dir string) error) error {
	dir, err := os.MkdirTemp("", "sidestep-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return f(dir)
}

// measureScene measures what the agent does.
func measureScene(ctx context.Context, o options, s *scene.Scene, w *scene.Workload, r *report) error {
	for _, part := range []struct {
		name    string
		measure func() error
	}{
		{"cached", func() error { return measureCached(ctx, s, w, r) }},
		{"first", func() error { return measureFirst(ctx, s, w, r) }},
		{"starts", func() error { return measureStarts(ctx, o, s, r) }},
		{"passing", func() error { return measurePassing(ctx, o, s, r) }},
		{"bridge", func() error { return measureBridge(ctx, o, s, w, r) }},
		{"node", func() error { return measureCrowd(ctx, o, s, r) }},
		{"floods", func() error { return measureFloods(ctx, s, w, r) }},
		{"rest", func() error { return measureRest(ctx, o, s, r) }},
	} {
		if !o.wants(part.name) {
			continue
		}
		if err := part.measure(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

// wants reports whether the part is to be measured, and says so if it is.
func (o options) wants(part string) bool {
	if o.only != "" && !slices.Contains(strings.Split(o.only, ","), part) {
		return false
	}
	fmt.Fprintln(os.Stderr, "bench: measuring", part)
	return true
}

// wantsAny reports whether one of the parts is to be measured.
func (o options) wantsAny(parts ...string) bool {
	for _, part := range strings.Split(o.only, ",") {
		if slices.Contains(parts, part) {
			return true
		}
	}
	return false
}

// publish prints the report, and writes it to the directory.
func (r *report) publish(o options, stdout io.Writer) error {
	show := r.table
	if o.output == "json" {
		show = r.json
	}
	if err := show(stdout); err != nil || o.out == "" {
		return err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(o.out, "bench.json"))
	if err != nil {
		return err
	}
	return errors.Join(r.json(f), f.Close())
}
