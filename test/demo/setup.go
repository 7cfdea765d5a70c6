package main

import (
	"context"
	"fmt"
	"os/exec"

	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
)

// vaultName is the vault's in federation.yaml.
const vaultName = "demo"

// setup is the scene with the demo's pods and clients.
type setup struct {
	*scene.Scene
	names    names
	pods     podSet
	programs programs
}

// programs are the clients' paths.
type programs struct {
	vaultclient string
	curl        string
	env         string
}

// openSetup starts everything, the agent included.
func openSetup(ctx context.Context, o options) (*setup, error) {
	f, err := federation.Parse(federationYAML)
	if err != nil {
		return nil, err
	}
	s := &setup{names: namesOf(f), pods: newPods(f)}
	if s.programs, err = findPrograms(o); err != nil {
		return nil, err
	}
	s.Scene, err = scene.Open(ctx, scene.Options{
		Agent: o.agent, LogLevel: "debug", Federation: f, VaultName: vaultName, Workloads: s.pods.pods(),
	})
	return s, err
}

// findPrograms makes sure that all of the clients are there before anything
// is started.
func findPrograms(o options) (programs, error) {
	if _, err := exec.LookPath(o.client); err != nil {
		return programs{}, fmt.Errorf("%w: `make build` makes it", err)
	}
	p := programs{vaultclient: o.client}
	for name, path := range map[string]*string{"curl": &p.curl, "env": &p.env} {
		found, err := exec.LookPath(name)
		if err != nil {
			return programs{}, fmt.Errorf("%w: install it with the machine's package manager", err)
		}
		*path = found
	}
	return p, nil
}
