package main

import (
	"context"
	"fmt"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/sidestep-agent/sidestep/pkg/bootguard"
	"github.com/sidestep-agent/sidestep/pkg/config"
)

// bootRetry is the pause after the boot guard's configuration could not be
// written: the disk was full, perhaps.
const bootRetry = time.Minute

// keepBootConfig keeps the boot guard's configuration as the agent's is, since
// at boot there is no ConfigMap to read: who has turned the mode to audit must
// not find pods held after the next boot.
func (a *agent) keepBootConfig(ctx context.Context) error {
	if a.options.bootConfig == "" {
		return nil
	}
	for {
		var retry <-chan time.Time
		if err := a.writeBootConfig(); err != nil {
			problem := "the next boot's guard will not know the configuration: " + err.Error()
			a.bootProblem.Store(&problem)
			a.log.Error("the boot guard's configuration could not be written", "err", err, "retry_in", bootRetry.String())
			retry = time.After(bootRetry)
		} else {
			a.bootProblem.Store(nil)
		}
		select {
		case <-a.settings.changed:
		case <-retry:
		case <-ctx.Done():
			return nil
		}
	}
}

func (a *agent) writeBootConfig() error {
	c := a.settings.active()
	if c.AllHeld {
		return nil // the last boot's word is better than none
	}
	settings, err := bootSettings(c)
	if err != nil {
		return err
	}
	return bootguard.WriteFile(a.options.bootConfig, settings, 0o600)
}

// bootGuard returns what people should know of the boot guard, and what is
// wrong with it. Both are empty where there is none.
func (a *agent) bootGuard() (says string, problems []string) {
	state, err := bootguard.Files{StateDir: a.options.stateDir}.Current()
	if err != nil {
		problems = append(problems, err.Error())
	}
	if problem := a.bootProblem.Load(); problem != nil {
		problems = append(problems, *problem)
	}
	if state != bootguard.Absent && a.options.bootConfig == "" {
		problems = append(problems, "a boot guard is installed and its configuration is not kept up to date: "+
			"install it again (manifests/overlays/boot-guard) or remove it (manifests/uninstall-boot-guard)")
	}
	switch {
	case state == bootguard.Held:
		says = "held at this boot"
	case state == bootguard.Installed || a.options.bootConfig != "":
		says = fmt.Sprintf("has not held at this boot: it is new, or the journal of %s says why", bootguard.UnitName)
	}
	return says, problems
}

// bootSettings returns the file with what the boot guard obeys. The rest is
// about pods that it does not know, and stays out, so that a program of another
// version reads it too.
func bootSettings(c *config.AgentConfiguration) ([]byte, error) {
	return yaml.Marshal(struct {
		APIVersion         string            `json:"apiVersion"`
		Kind               string            `json:"kind"`
		Mode               config.Mode       `json:"mode"`
		Unknown            config.Unknown    `json:"unknown"`
		UnknownHostNetwork config.Unknown    `json:"unknownHostNetwork"`
		WireServer         config.WireServer `json:"wireServer"`
	}{config.APIVersion, config.Kind, c.Mode, c.Unknown, c.UnknownHostNetwork, c.WireServer})
}
