package main

import (
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/sidestep-agent/sidestep/cmd/agent/daemon"
	"github.com/sidestep-agent/sidestep/pkg/cgroups"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/preflight"
	"github.com/sidestep-agent/sidestep/pkg/routeguard"
)

func newCheck(env environment) *cobra.Command {
	var host daemon.Host
	var delivery, secondLine string
	var listen netip.AddrPort
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
	addHost(cmd.Flags(), &host)
	addListen(cmd.Flags(), &listen)
	addDelivery(cmd.Flags(), &delivery)
	addSecondLine(cmd.Flags(), &secondLine)
	return cmd
}

func check(env environment, host daemon.Host, listen netip.AddrPort, delivery, secondLine string) error {
	proc, needed, tryLine := host.Proc, preflight.NeededForPodDelivery(), routeguard.Try
	if secondLine == daemon.LineOff {
		tryLine = nil
	}
	if delivery == daemon.DeliveryNode {
		proc, needed, tryLine = "", preflight.NeededForNodeDelivery(), nil // pods' namespaces are not entered
	}
	results := preflight.Run(preflight.Options{
		CgroupRoot: host.CgroupRoot, KubepodsCgroup: host.KubepodsCgroup, BPFFS: host.BPFFS,
		Proc: proc, Sys: "/sys", KubeletDir: host.KubeletDir,
		Capabilities:  needed,
		Listen:        listen,
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
