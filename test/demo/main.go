package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/sidestep-agent/sidestep/test/lab"
)

// limit ends a demo that hangs; a good one takes some seconds.
const limit = 3 * time.Minute

// options are the programs that the demo runs, as absolute paths.
type options struct {
	agent  string
	client string
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
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.agent, "agent", "out/agent", "the agent's program")
	flags.StringVar(&o.client, "client", "out/vaultclient", "the program that uses azidentity and azsecrets")
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	for _, path := range []*string{&o.agent, &o.client} {
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return options{}, err
		}
		*path = absolute
	}
	return o, nil
}

// run runs the demo inside the lab and returns its exit status.
func run(o options, stdout *os.File) int {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	out := &page{out: stdout, colour: isTerminal(stdout)}
	out.paragraph(introduction)
	s, err := openSetup(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo: set up:", err)
		return 1
	}
	failed, err := runAll(ctx, s, out)
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n%s", err, s.Agent.LastWords())
	}
	if closeErr := s.Close(); closeErr != nil {
		fmt.Fprintln(os.Stderr, "demo: clean up:", closeErr)
		return 1
	}
	if failed > 0 || err != nil {
		return 1
	}
	return 0
}

// isTerminal reports whether f is a terminal or another device for people.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
