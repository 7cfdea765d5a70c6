package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/sidestep-agent/sidestep/pkg/bootguard"
	"github.com/sidestep-agent/sidestep/pkg/cgroups"
	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/handover"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
)

// bootRetry is the pause after the boot guard's configuration could not be
// written: the disk was full, perhaps.
const bootRetry = time.Minute

// bootConfig keeps the boot guard's configuration as the agent's is, since at
// boot there is no ConfigMap to read: who has turned the mode to audit must not
// find pods held after the next boot.
type bootConfig struct {
	path, stateDir string // path is empty: none is kept
	log            *slog.Logger
	active         func() *config.AgentConfiguration
	changed        <-chan struct{}        // has one when another is active
	problem        atomic.Pointer[string] // why it is not kept
}

// run writes the file after each change, until ctx ends.
func (b *bootConfig) run(ctx context.Context) error {
	if b.path == "" {
		return nil
	}
	for {
		var retry <-chan time.Time
		if err := b.write(); err != nil {
			problem := "the next boot's guard will not know the configuration: " + err.Error()
			b.problem.Store(&problem)
			b.log.Error("the boot guard's configuration could not be written", "err", err, "retry_in", bootRetry.String())
			retry = time.After(bootRetry)
		} else {
			b.problem.Store(nil)
		}
		select {
		case <-b.changed:
		case <-retry:
		case <-ctx.Done():
			return nil
		}
	}
}

func (b *bootConfig) write() error {
	c := b.active()
	if c.AllHeld {
		return nil // the last boot's word is better than none
	}
	settings, err := BootSettings(c)
	if err != nil {
		return err
	}
	return bootguard.WriteFile(b.path, settings, 0o600)
}

// status returns what people should know of the boot guard, and what is
// wrong with it. Both are empty where there is none.
func (b *bootConfig) status() (says string, problems []string) {
	state, err := bootguard.Files{StateDir: b.stateDir}.Current()
	if err != nil {
		problems = append(problems, err.Error())
	}
	if problem := b.problem.Load(); problem != nil {
		problems = append(problems, *problem)
	}
	if state != bootguard.Absent && b.path == "" {
		problems = append(problems, "a boot guard is installed and its configuration is not kept up to date: "+
			"install it again (manifests/overlays/boot-guard) or remove it (manifests/uninstall-boot-guard)")
	}
	switch {
	case state == bootguard.Held:
		says = "held at this boot"
	case state == bootguard.Installed || b.path != "":
		says = fmt.Sprintf("has not held at this boot: it is new, or the journal of %s says why", bootguard.UnitName)
	}
	return says, problems
}

// BootSettings returns the file with what the boot guard obeys. The rest is
// about pods that it does not know, and stays out, so that a program of another
// version reads it too.
func BootSettings(c *config.AgentConfiguration) ([]byte, error) {
	return yaml.Marshal(struct {
		APIVersion         string            `json:"apiVersion"`
		Kind               string            `json:"kind"`
		Mode               config.Mode       `json:"mode"`
		Unknown            config.Unknown    `json:"unknown"`
		UnknownHostNetwork config.Unknown    `json:"unknownHostNetwork"`
		WireServer         config.WireServer `json:"wireServer"`
	}{config.APIVersion, config.Kind, c.Mode, c.Unknown, c.UnknownHostNetwork, c.WireServer})
}

// BootOptions are what the boot guard is started with.
type BootOptions struct {
	Programs
	CgroupRoot     string
	KubepodsCgroup string
	BPFFS          string
	Files          bootguard.Files
}

// HoldAtBoot attaches the programs with no verdict, so that every pod is
// unknown to them, and there is no listener at the node listener's address. An agent that
// starts adopts all of it. Where one runs already there is nothing to do.
func HoldAtBoot(o BootOptions, log *slog.Logger) (err error) {
	lock, err := handover.Acquire(o.Files.StateDir)
	if errors.Is(err, handover.ErrHeld) {
		log.Info("an agent runs on this node; nothing to do")
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	c, err := config.Load(o.Files.Config)
	if err != nil {
		log.Warn("without a configuration all pods are held but those on the node's network", "err", err)
		c = config.Default()
	}
	if err := o.attach(c, log); err != nil {
		return err
	}
	log.Info("pods are held until the agent runs", "kubepods", o.KubepodsCgroup, "mode", c.Mode,
		"unknown", c.Unknown, "unknown_host_network", c.UnknownHostNetwork)
	return o.Files.NoteHeld()
}

func (o BootOptions) attach(c *config.AgentConfiguration, log *slog.Logger) (err error) {
	hooks, err := intercept.Load(o.BPFFS, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, hooks.Close()) }()
	netns, err := delivery.ReserveNode(o.Listen.Addr())
	if err != nil {
		return err
	}
	if err := bootguard.MakeKubepods(o.CgroupRoot, o.KubepodsCgroup); err != nil {
		return err
	}
	id, err := cgroups.ID(o.KubepodsCgroup)
	if err != nil {
		return err
	}
	settings, err := o.settings(c, o.KubepodsCgroup, id, netns)
	if err != nil {
		return err
	}
	if err := hooks.Configure(settings); err != nil {
		return err
	}
	if err := hooks.Attach(o.KubepodsCgroup, o.Guard != GuardOff); err != nil {
		return err
	}
	// A node without a second line boots all the same.
	line := newSecondLine(Options{Programs: o.Programs}, log, func() {})
	line.apply(c)
	line.hold()
	return nil
}
