package main

import (
	"github.com/spf13/cobra"

	"github.com/sidestep-agent/sidestep/pkg/cgroups"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/preflight"
)

func newCheck(env environment) *cobra.Command {
	var host hostFlags
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Tell whether this node can run the agent, and what to mend if not",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fromEnvironment(cmd.Flags(), env.getenv); err != nil {
				return err
			}
			return check(env, host)
		},
	}
	host.add(cmd.Flags())
	return cmd
}

func check(env environment, host hostFlags) error {
	results := preflight.Run(preflight.Options{
		CgroupRoot: host.cgroupRoot, KubepodsCgroup: host.kubepodsCgroup, BPFFS: host.bpffs,
		Proc: host.proc, Sys: "/sys", KubeletDir: host.kubeletDir,
		Capabilities: neededCapabilities(),
		FindKubepods: cgroups.Find, LoadPrograms: intercept.TryLoad,
	})
	if err := preflight.Print(env.stdout, results); err != nil {
		return err
	}
	for _, r := range results {
		if !r.OK {
			return errSilent
		}
	}
	return nil
}
