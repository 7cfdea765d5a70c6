package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/sidestep-agent/sidestep/pkg/status"
)

// watchInterval is how often `agent status --watch` asks again.
const watchInterval = 2 * time.Second

func newStatus(env environment) *cobra.Command {
	var stateDir, instance, format string
	var watch, ready bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the agent on this node does: pods, verdicts, last exchanges",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fromEnvironment(cmd.Flags(), env.getenv); err != nil {
				return err
			}
			if ready {
				return errors.Join(checkInstance(instance), status.Ready(cmd.Context(), stateDir, instance))
			}
			return showStatus(cmd.Context(), env, stateDir, format, watch)
		},
	}
	addStateDir(cmd.Flags(), &stateDir)
	addInstance(cmd.Flags(), &instance)
	addOneOf(cmd.Flags(), &format, "output", "o", "form of the report", status.Formats...)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "refresh it every two seconds")
	cmd.Flags().BoolVar(&ready, "ready", false, "show nothing; fail unless this instance is ready (for probes)")
	return cmd
}

func showStatus(ctx context.Context, env environment, stateDir, format string, watch bool) error {
	for {
		report, err := status.Fetch(ctx, stateDir)
		if watch && errors.Is(ctx.Err(), context.Canceled) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := status.Print(env.stdout, report, format); err != nil || !watch {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchInterval):
			fmt.Fprintln(env.stdout)
		}
	}
}
