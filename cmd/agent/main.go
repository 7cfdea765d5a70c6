package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "unknown"

// environment is what the commands have from the process, so that tests can
// give them another.
type environment struct {
	stdout, stderr io.Writer
	getenv         func(string) string
	environ        func() []string // as name=value; nil: there are none
}

// errSilent ends the program with status 1 when all has been said.
var errSilent = errors.New("failed")

func main() {
	os.Exit(execute(environment{stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, environ: os.Environ}))
}

// execute runs the command that the program's arguments name and returns the
// exit status.
func execute(env environment) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := newCommand(env).ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if !errors.Is(err, errSilent) {
		fmt.Fprintln(env.stderr, "agent:", err)
	}
	return 1
}

func newCommand(env environment) *cobra.Command {
	root := &cobra.Command{
		Use:           "agent",
		Short:         "Gives pods their own Microsoft Entra identity through the instance metadata service",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetOut(env.stdout)
	root.SetErr(env.stderr)
	root.AddCommand(newRun(env), newCheck(env), newStatus(env), newUninstall(env), newBootGuard(env), newConvert(env), newConfig(env), newVersion(env))
	return root
}

func newVersion(env environment) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(env.stdout, version)
			return err
		},
	}
}
