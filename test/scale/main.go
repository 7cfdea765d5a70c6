package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	bin, rbac, out string
	nodes          string
	limit          time.Duration
	rest           time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "", "folder of etcd, kube-apiserver and kubectl (test/node/build.sh prints it)")
	flag.StringVar(&o.rbac, "rbac", "manifests/base/rbac.yaml", "what the agents may do")
	flag.StringVar(&o.nodes, "nodes", "10,100,1000,5000", "numbers of agents, each larger than the one before")
	flag.DurationVar(&o.limit, "limit", 20*time.Minute, "numbers that are not reached by then are extrapolated")
	flag.DurationVar(&o.rest, "rest", 20*time.Second, "how long each number is measured at rest")
	flag.StringVar(&o.out, "o", "", "file for the figures as JSON")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

// run measures, and prints what it has also after an error.
func run(ctx context.Context, o options, out io.Writer) error {
	numbers, err := parseNumbers(o.nodes)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sidestep-scale-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	plane, err := startControlPlane(ctx, o.bin, dir, o.rbac)
	if err != nil {
		return err
	}
	defer plane.stop()
	fleet := newFleet(ctx, plane)
	defer fleet.stop()
	steps, err := measureAll(ctx, &measurer{plane: plane, fleet: fleet, rest: o.rest, say: func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "scale: "+format+"\n", args...)
	}}, numbers, o.limit)
	if err := errors.Join(err, report(out, o.out, steps)); err != nil {
		return err
	}
	return judge(steps)
}

// measureAll measures numbers of agents while time and memory last, and
// extrapolates the others.
func measureAll(ctx context.Context, m *measurer, numbers []int, limit time.Duration) ([]step, error) {
	begun := time.Now()
	var steps []step
	var took time.Duration
	for i, n := range numbers {
		if i > 1 {
			growth := float64(n) / float64(numbers[i-1])
			why := tooLarge(limit-time.Since(begun), time.Duration(float64(took)*growth), float64(steps[i-1].Agents), n, steps[i-1])
			if why != "" {
				m.say("%d agents are extrapolated: %s", n, why)
				measured := steps[:i]
				for _, n := range numbers[i:] {
					steps = append(steps, extrapolate(measured, n))
				}
				return steps, nil
			}
		}
		at := time.Now()
		s, err := m.measure(ctx, n)
		if err != nil {
			return steps, fmt.Errorf("%d agents: %w", n, err)
		}
		took = time.Since(at)
		steps = append(steps, s)
	}
	return steps, nil
}

// report prints the table, and writes the figures to a file if one is named.
func report(out io.Writer, file string, steps []step) error {
	if err := printTable(out, steps); err != nil || file == "" {
		return err
	}
	f, err := os.Create(file) //nolint:gosec // the user names it
	if err != nil {
		return err
	}
	return errors.Join(printJSON(f, steps), f.Close())
}

// judge fails if an agent cost more than it may.
func judge(steps []step) error {
	var errs []error
	for _, s := range steps {
		if s.Foreign > 0 {
			errs = append(errs, fmt.Errorf("%d agents: requests for others' objects", s.Agents))
		}
		if want := s.Agents * (1 + accountsPerNode); !s.Extrapolated && s.Watches > want+maxOwnWatches {
			errs = append(errs, fmt.Errorf("%d agents: %d watches, want %d", s.Agents, s.Watches, want))
		}
	}
	return errors.Join(errs...)
}

// maxOwnWatches is how many watches of pods and service accounts the apiserver
// may have open for itself.
const maxOwnWatches = 8

// tooLarge says why a number of agents cannot be measured here; empty: it can.
func tooLarge(left, needed time.Duration, agents float64, n int, last step) string {
	if needed > left {
		return fmt.Sprintf("they would take %.0f minutes", needed.Minutes())
	}
	free, err := availableMB()
	if err != nil {
		return err.Error()
	}
	growth := float64(n)/agents - 1
	if more := growth * (last.ResidentMB + 3*last.AgentKB*agents/1e3); more > 0.7*free {
		return fmt.Sprintf("they would take %.0f GB of memory", more/1e3)
	}
	return ""
}

// availableMB returns how much memory can be had.
func availableMB() (float64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kb, err := strconv.Atoi(strings.Fields(value)[0])
			return float64(kb) / 1e3, err
		}
	}
	return 0, errors.New("/proc/meminfo has no MemAvailable")
}

func parseNumbers(text string) ([]int, error) {
	var numbers []int
	for field := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("-nodes: %q is no number of agents", field)
		}
		numbers = append(numbers, n)
	}
	if !slices.IsSorted(numbers) {
		return nil, errors.New("-nodes: each must be larger than the one before")
	}
	return numbers, nil
}
