package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/sidestep-agent/sidestep/test/lab"
)

// limit ends a suite that hangs; a good one takes two minutes.
const limit = 15 * time.Minute

// options are what the flags say, with absolute paths.
type options struct {
	agent   string
	clients string // where test/clients/install.sh has put the clients
	record  string // empty: the suite itself
	only    *regexp.Regexp
}

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(2)
	}
	os.Exit(lab.Main(func() int {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if o.record != "" {
			return exitStatus(record(ctx, o, os.Stdout))
		}
		return exitStatus(run(ctx, o, os.Stdout))
	}))
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("conformance", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.agent, "agent", "out/agent", "the agent's program")
	flags.StringVar(&o.clients, "clients", "out/clients", "`directory` of the installed clients")
	flags.StringVar(&o.record, "record", "", "write the clients' requests to this `directory` instead")
	only := flags.String("only", "", "run the clients whose name matches this `expression`")
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return options{}, err
	}
	for _, path := range []*string{&o.agent, &o.clients, &o.record} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return options{}, err
		}
	}
	return o, nil
}

// errFailed says that the table shows what failed.
var errFailed = errors.New("not every case is OK")

func exitStatus(err error) int {
	switch {
	case err == nil:
		return 0
	case !errors.Is(err, errFailed):
		fmt.Fprintln(os.Stderr, "conformance:", err)
	}
	return 1
}
