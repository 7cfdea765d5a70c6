package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/pflag"

	"github.com/sidestep-agent/sidestep/pkg/bootguard"
	"github.com/sidestep-agent/sidestep/pkg/cgroups"
	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/preflight"
)

func (o *guardOptions) addInstall(flags *pflag.FlagSet) {
	o.addKernel(flags)
	addConfig(flags, &o.config)
	addBootFiles(flags, &o.files)
	flags.StringVar(&o.files.KubeletUnit, "kubelet-unit", bootguard.DefaultKubeletUnit, "the kubelet's unit")
}

// addBootFiles adds what tells where the files are that a boot needs besides.
func addBootFiles(flags *pflag.FlagSet, files *bootguard.Files) {
	flags.StringVar(&files.Program, "boot-program", bootguard.DefaultProgram, "where the boot guard's program is on the host")
	flags.StringVar(&files.UnitDir, "unit-dir", bootguard.DefaultUnitDir, "systemd's directory of units on the host")
}

// findKubepods looks for the pods' cgroup on a node that runs. At boot there is
// none yet: the unit has the path.
func (o *guardOptions) findKubepods() (err error) {
	if o.kubepodsCgroup == "" {
		o.kubepodsCgroup, err = cgroups.Find(o.cgroupRoot)
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
	settings, err := bootSettings(c)
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
		Files: o.files, Self: self, Settings: settings, Arguments: o.arguments(),
		Capabilities: capabilities, CgroupRoot: o.cgroupRoot, BPFFS: o.bpffs,
	})
	if err != nil {
		return err
	}
	log.Info("the boot guard is installed; it holds from the next boot on", "kubepods", o.kubepodsCgroup)
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
