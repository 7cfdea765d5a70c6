package main

import (
	"errors"
	"log/slog"
	"net/netip"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sidestep-agent/sidestep/pkg/bootguard"
	"github.com/sidestep-agent/sidestep/pkg/cgroups"
	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/handover"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
)

// guardOptions are the flags of `agent boot-guard`.
type guardOptions struct {
	kernelFlags
	cgroupRoot     string
	kubepodsCgroup string
	bpffs          string
	files          bootguard.Files
	config         string
}

func newBootGuard(env environment) *cobra.Command {
	parent := &cobra.Command{
		Use:   "boot-guard",
		Short: "Keep pods from the node's identity from the node's boot on",
		Args:  cobra.NoArgs,
	}
	parent.AddCommand(
		newGuardCommand(env, "attach", "Attach the programs before there are pods (for the unit that install writes)",
			(*guardOptions).addKernel, attachGuard),
		newGuardCommand(env, "install", "Have this node do so from its next boot on (for the DaemonSet's init container)",
			(*guardOptions).addInstall, installGuard),
	)
	return parent
}

func newGuardCommand(env environment, name, short string, add func(*guardOptions, *pflag.FlagSet),
	run func(guardOptions, *slog.Logger) error,
) *cobra.Command {
	var o guardOptions
	cmd := &cobra.Command{
		Use: name, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fromEnvironment(cmd.Flags(), env.getenv); err != nil {
				return err
			}
			return run(o, slog.New(slog.NewTextHandler(env.stderr, nil)))
		},
	}
	add(&o, cmd.Flags())
	return cmd
}

func (o *guardOptions) addKernel(flags *pflag.FlagSet) {
	addCgroups(flags, &o.cgroupRoot, &o.kubepodsCgroup)
	addBPFFS(flags, &o.bpffs)
	o.add(flags)
	addStateDir(flags, &o.files.StateDir)
	addBootConfig(flags, &o.files.Config, bootguard.DefaultConfig)
}

func addBootConfig(flags *pflag.FlagSet, path *string, otherwise string) {
	flags.StringVar(path, "boot-config", otherwise, "file on the host with what the boot guard obeys of the configuration")
}

// attachGuard attaches the programs with no verdict, so that every pod is
// unknown to them, and there is no listener at the node listener's address. An agent that
// starts adopts all of it. Where one runs already there is nothing to do.
func attachGuard(o guardOptions, log *slog.Logger) (err error) {
	if err := o.findKubepods(); err != nil {
		return err
	}
	lock, err := handover.Acquire(o.files.StateDir)
	if errors.Is(err, handover.ErrHeld) {
		log.Info("an agent runs on this node; nothing to do")
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	c, err := config.Load(o.files.Config)
	if err != nil {
		log.Warn("without a configuration all pods are held but those on the node's network", "err", err)
		c = config.Default()
	}
	if err := o.attach(c, log); err != nil {
		return err
	}
	log.Info("pods are held until the agent runs", "kubepods", o.kubepodsCgroup, "mode", c.Mode,
		"unknown", c.Unknown, "unknown_host_network", c.UnknownHostNetwork)
	return o.files.NoteHeld()
}

func (o guardOptions) attach(c *config.AgentConfiguration, log *slog.Logger) (err error) {
	hooks, err := intercept.Load(o.bpffs, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, hooks.Close()) }()
	netns, err := delivery.ReserveNode(netip.AddrPort(o.listen).Addr())
	if err != nil {
		return err
	}
	if err := bootguard.MakeKubepods(o.cgroupRoot, o.kubepodsCgroup); err != nil {
		return err
	}
	id, err := cgroups.ID(o.kubepodsCgroup)
	if err != nil {
		return err
	}
	settings := o.settings(c, id, netns)
	if settings.QoSIDs, err = cgroups.QoS(o.kubepodsCgroup); err != nil {
		return err
	}
	if err := hooks.Configure(settings); err != nil {
		return err
	}
	if err := hooks.Attach(o.kubepodsCgroup, o.guard != guardOff); err != nil {
		return err
	}
	o.holdRoutes(c, log)
	return nil
}
