package main

import (
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/sidestep-agent/sidestep/pkg/cgroups"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/preflight"
	"github.com/sidestep-agent/sidestep/pkg/routeguard"
)

func newCheck(env environment) *cobra.Command {
	var host hostFlags
	var delivery, secondLine string
	var listen ipv4Endpoint
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Tell whether this node can run the agent, and what to fix if not",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fromEnvironment(cmd.Flags(), env.getenv); err != nil {
				return err
			}
			return check(env, host, listen, delivery, secondLine)
		},
	}
	host.add(cmd.Flags())
	addListen(cmd.Flags(), &listen)
	addDelivery(cmd.Flags(), &delivery)
	addSecondLine(cmd.Flags(), &secondLine)
	return cmd
}

func check(env environment, host hostFlags, listen ipv4Endpoint, delivery, secondLine string) error {
	proc, needed, tryLine := host.proc, preflight.NeededForPodDelivery(), routeguard.Try
	if secondLine == lineOff {
		tryLine = nil
	}
	if delivery == deliveryNode {
		proc, needed, tryLine = "", preflight.NeededForNodeDelivery(), nil // pods' namespaces are not entered
	}
	results := preflight.Run(preflight.Options{
		CgroupRoot: host.cgroupRoot, KubepodsCgroup: host.kubepodsCgroup, BPFFS: host.bpffs,
		Proc: proc, Sys: "/sys", KubeletDir: host.kubeletDir,
		Capabilities:  needed,
		Listen:        netip.AddrPort(listen),
		TrySecondLine: tryLine,
		FindKubepods:  cgroups.Find, LoadPrograms: intercept.TryLoad, CheckPlace: intercept.CheckPlace,
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
