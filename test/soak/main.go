package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/sidestep-agent/sidestep/test/lab"
)

// options are what the flags say.
type options struct {
	duration time.Duration // of the churn
	rate     int           // requests a second of the standing pods, all together
	// Of a single run; the suite starts itself with these.
	agent  string // path of the agent's program; empty: the suite
	result string // path at which the run's result is left
}

func main() {
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(2)
	}
	if o.agent == "" && !lab.IsTask() {
		os.Exit(exitStatus(interruptible(o, suite)))
	}
	os.Exit(lab.Main(func() int { return exitStatus(interruptible(o, single)) }))
}

func interruptible(o options, do func(context.Context, options) error) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return do(ctx, o)
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	flags.DurationVar(&o.duration, "duration", 10*time.Minute, "how long the churn lasts")
	flags.IntVar(&o.rate, "rate", 150, "requests a second")
	flags.StringVar(&o.agent, "agent", "", "make one run with this program of the agent, and no other")
	flags.StringVar(&o.result, "result", "", "write the run's result to this `file`")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.rate < leastRate {
		return o, fmt.Errorf("the rate must be %d or more", leastRate)
	}
	return o, nil
}

func exitStatus(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "soak:", err)
	return 1
}

// single makes one run, and leaves its result.
func single(ctx context.Context, o options) error {
	r, err := soak(ctx, o, os.Stdout)
	if err != nil {
		return err
	}
	if o.result == "" {
		r.print(os.Stdout)
		fmt.Println("soak:", r.summary())
		return r.verdict()
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(o.result, text, 0o600)
}
