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

// errBroken ends the program with status 1 when all has been said.
var errBroken = errors.New("a link is broken")

func main() { os.Exit(execute()) }

// execute runs the command that the program's arguments name and returns the
// exit status.
func execute() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := newCommand(os.Stdout).ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if !errors.Is(err, errBroken) {
		fmt.Fprintln(os.Stderr, "kubectl sidestep:", err)
	}
	return 1
}

func newCommand(out io.Writer) *cobra.Command {
	var t target
	root := &cobra.Command{
		Use:           "kubectl-sidestep",
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl sidestep"},
		Short:         "See into the agents that give pods their own Microsoft Entra identity",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetOut(out)
	t.add(root.PersistentFlags())
	root.AddCommand(newStatus(&t, out), newExplain(&t, out))
	return root
}
