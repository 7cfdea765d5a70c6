package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"syscall"
	"time"
)

type options struct {
	minutes int
	run     string
	out     string
	busy    int
	atOnce  int
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == spinning {
		spin()
	}
	var o options
	flag.IntVar(&o.minutes, "minutes", 120, "no round is begun after so many minutes")
	flag.StringVar(&o.run, "run", "", "only the suites whose names match this regular expression")
	flag.StringVar(&o.out, "out", "out/stress", "the folder for programs and the output of rounds that failed")
	flag.IntVar(&o.busy, "busy", 2, "how many processes keep the processors busy")
	flag.IntVar(&o.atOnce, "at-once", runtime.NumCPU(), "how many rounds run at the same time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "stress:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root, as the suites do")
	}
	pattern, err := regexp.Compile(o.run)
	if err != nil {
		return fmt.Errorf("STRESS: %w", err)
	}
	out, err := filepath.Abs(o.out)
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(out), os.MkdirAll(out, 0o755)); err != nil {
		return err
	}
	units, err := unitSuites(ctx)
	if err != nil {
		return err
	}
	all := slices.DeleteFunc(append(units, rootSuites(out)...), func(s *suite) bool { return !pattern.MatchString(s.name) })
	if len(all) == 0 {
		return fmt.Errorf("no suite matches %q", o.run)
	}
	if err := buildAll(ctx, out, all); err != nil {
		return err
	}
	end, err := makeBusy(o.busy)
	if err != nil {
		return err
	}
	defer end()
	s := stress{out: out, all: all, until: time.Now().Add(time.Duration(o.minutes) * time.Minute), begun: time.Now()}
	s.run(ctx, o.atOnce)
	err = s.report(os.Stdout)
	if ctx.Err() != nil {
		return errInterrupted
	}
	return err
}
