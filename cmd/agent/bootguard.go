package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sidestep-agent/sidestep/cmd/agent/daemon"
	"github.com/sidestep-agent/sidestep/pkg/bootguard"
	"github.com/sidestep-agent/sidestep/pkg/cgroups"
	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/preflight"
)

// guardOptions are the flags of `agent boot-guard`.
type guardOptions struct {
	daemon.BootOptions
	config string
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
	addCgroups(flags, &o.CgroupRoot, &o.KubepodsCgroup)
	addBPFFS(flags, &o.BPFFS)
	addPrograms(flags, &o.Programs)
	addStateDir(flags, &o.Files.StateDir)
	addBootConfig(flags, &o.Files.Config, bootguard.DefaultConfig)
}

// attachGuard holds all pods, on a node on which no agent runs.
func attachGuard(o guardOptions, log *slog.Logger) error {
	if err := o.findKubepods(); err != nil {
		return err
	}
	return daemon.HoldAtBoot(o.BootOptions, log)
}

func (o *guardOptions) addInstall(flags *pflag.FlagSet) {
	o.addKernel(flags)
	addConfig(flags, &o.config)
	addBootFiles(flags, &o.Files)
	flags.StringVar(&o.Files.KubeletUnit, "kubelet-unit", bootguard.DefaultKubeletUnit, "the kubelet's unit")
}

// addBootFiles adds what tells where the files are that a boot needs besides.
func addBootFiles(flags *pflag.FlagSet, files *bootguard.Files) {
	flags.StringVar(&files.Program, "boot-program", bootguard.DefaultProgram, "where the boot guard's program is on the host")
	flags.StringVar(&files.UnitDir, "unit-dir", bootguard.DefaultUnitDir, "systemd's directory of units on the host")
}

// findKubepods looks for the pods' cgroup on a node that runs. At boot there is
// none yet: the unit has the path.
func (o *guardOptions) findKubepods() (err error) {
	if o.KubepodsCgroup == "" {
		o.KubepodsCgroup, err = cgroups.Find(o.CgroupRoot)
	}
	return err
}

// installGuard writes the boot guard's files, with the flags that it was given
// and the cgroup that it finds on the node that runs.
func installGuard(o guardOptions, log *slog.Logger) error {
	c, err := config.Load(o.config)
	if err != nil {
		return err
	}
	settings, err := daemon.BootSettings(c)
	if err != nil {
		return err
	}
	if err := o.findKubepods(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the program itself: %w", err)
	}
	var capabilities []string
	for _, c := range preflight.NeededForBootGuard() {
		capabilities = append(capabilities, c.Name)
	}
	err = bootguard.Install(bootguard.Options{
		Files: o.Files, Self: self, Settings: settings, Arguments: o.arguments(),
		Capabilities: capabilities, CgroupRoot: o.CgroupRoot, BPFFS: o.BPFFS,
	})
	if err != nil {
		return err
	}
	log.Info("the boot guard is installed; it holds from the next boot on", "kubepods", o.KubepodsCgroup)
	return nil
}

// arguments returns the command line that repeats the options.
func (o guardOptions) arguments() []string {
	var again guardOptions
	flags := pflag.NewFlagSet("attach", pflag.ContinueOnError)
	again.addKernel(flags) // which gives all of it the defaults
	again = o
	args := []string{"boot-guard", "attach"}
	flags.VisitAll(func(f *pflag.Flag) { args = append(args, "--"+f.Name, f.Value.String()) })
	return args
}
