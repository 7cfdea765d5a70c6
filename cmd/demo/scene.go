package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/test/lab"
)

// runDir gets a filesystem of the lab's own, so that nothing is left on the
// machine however the demo ends.
const runDir = "/run"

const nodeName = "demo-node"

// scene is the node with all that takes part.
type scene struct {
	node     *lab.Node
	cloud    *cloud
	agent    *agent
	pods     cast
	programs programs
	ca       string // path of the stand-ins' CA certificate
	home     string // the clients' home directory, empty
}

// programs are the clients' paths.
type programs struct {
	vaultclient string
	curl        string
	env         string
}

// openScene makes the node, the stand-ins and the pods, and starts the agent.
func openScene(ctx context.Context, o options) (_ *scene, err error) {
	s := &scene{}
	if s.programs, err = findPrograms(o); err != nil {
		return nil, err
	}
	if err := unix.Mount("tmpfs", runDir, "tmpfs", 0, "mode=755"); err != nil {
		return nil, fmt.Errorf("mount a filesystem of the demo's own: %w", err)
	}
	if s.node, err = lab.NewNode(runDir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.cloud, err = openCloud(ctx); err != nil {
		return nil, err
	}
	s.ca, s.home = filepath.Join(runDir, "ca.crt"), filepath.Join(runDir, "home")
	if err := errors.Join(os.WriteFile(s.ca, s.cloud.authority.PEM(), 0o644), os.Mkdir(s.home, 0o755)); err != nil {
		return nil, err
	}
	if s.pods, err = startPods(s.node, s.cloud); err != nil {
		return nil, err
	}
	return s, s.startAgent(ctx, o.agent)
}

func (s *scene) startAgent(ctx context.Context, path string) error {
	kubeconfig := filepath.Join(runDir, "kubeconfig")
	if err := os.WriteFile(kubeconfig, s.cloud.kubeconfig(), 0o600); err != nil {
		return err
	}
	a, err := newAgent(path, runDir)
	if err != nil {
		return err
	}
	if err := a.start(s.node, kubeconfig, s.ca); err != nil {
		return err
	}
	s.agent = a
	if err := a.waitReady(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, a.lastWords())
	}
	return nil
}

// close ends all that the scene started.
func (s *scene) close() error {
	var errs []error
	if s.agent != nil {
		errs = append(errs, s.agent.kill())
	}
	errs = append(errs, s.node.Close())
	if s.cloud != nil {
		errs = append(errs, s.cloud.close())
	}
	return errors.Join(errs...)
}

// findPrograms makes sure that all of the programs are there before anything
// is started.
func findPrograms(o options) (programs, error) {
	for _, path := range []string{o.agent, o.client} {
		if _, err := exec.LookPath(path); err != nil {
			return programs{}, fmt.Errorf("%w: `make build` makes it", err)
		}
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
