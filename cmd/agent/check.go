package main

import (
	"github.com/spf13/cobra"

	"github.com/sidestep-agent/sidestep/pkg/cgroups"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/preflight"
)

func newCheck(env environment) *cobra.Command {
	var host hostFlags
	var delivery string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Tell whether this node can run the agent, and what to fix if not",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fromEnvironment(cmd.Flags(), env.getenv); err != nil {
				return err
			}
			return check(env, host, delivery)
		},
	}
	host.add(cmd.Flags())
	addDelivery(cmd.Flags(), &delivery)
	return cmd
}

func check(env environment, host hostFlags, delivery string) error {
	proc, needed := host.proc, preflight.NeededForPodDelivery()
	if delivery == deliveryNode {
		proc, needed = "", preflight.NeededForNodeDelivery() // pods' namespaces are not entered
	}
	results := preflight.Run(preflight.Options{
		CgroupRoot: host.cgroupRoot, KubepodsCgroup: host.kubepodsCgroup, BPFFS: host.bpffs,
		Proc: proc, Sys: "/sys", KubeletDir: host.kubeletDir,
		Capabilities: needed,
		FindKubepods: cgroups.Find, LoadPrograms: intercept.TryLoad, CheckPlace: intercept.CheckPlace,
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
