package scene

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
)

// runDir gets a filesystem of the lab's own, so that nothing is left on the
// machine however the program ends.
const runDir = "/run"

const nodeName = "lab-node"

// Options say what a scene is made of.
type Options struct {
	Agent      string // path of the agent's program
	LogLevel   string // of the agent; empty: its default
	Guard      string // likewise
	Config     string // text of its configuration file; empty: unlabelled pods pass
	Federation federation.File
	// RefreshIn is when Entra wants its tokens replaced; 0: it does not say.
	RefreshIn time.Duration
	// VaultName is the vault's name in the federation file.
	VaultName string
	// Extra is served over TLS beside the stand-ins, by IPv4 address.
	Extra map[string]http.Handler
	// Names are further ones in the certificate of what is served.
	Names []string
	// WrapIMDS changes the metadata service's listener; nil leaves it alone.
	WrapIMDS func(net.Listener) net.Listener
	// Workloads are running before the agent starts.
	Workloads []*Workload
	// Booted is called before there are workloads, and Unattended once they
	// run, before the agent starts. Either may be nil.
	Booted, Unattended func(*Scene) error
	// Flags are further ones of the agent.
	Flags []string
	// Env is the agent's environment, besides what the scene needs.
	Env []string
	// Unready has Open return without waiting for the agent to be ready.
	Unready bool
}

// Scene is the node with all that takes part.
type Scene struct {
	Node  *lab.Node
	Cloud *Cloud
	Agent *Agent
	CA    string // path of the stand-ins' CA certificate
	Home  string // the clients' home directory, empty at first

	options   Options
	agents    int          // started so far
	announced atomic.Int64 // pods so far
}

// Open makes the node, the stand-ins and the workloads, starts the agent and
// waits until it is ready. It must be called below lab.Main. The caller closes
// the scene.
func Open(ctx context.Context, o Options) (_ *Scene, err error) {
	if _, err := exec.LookPath(o.Agent); err != nil {
		return nil, fmt.Errorf("%w: `make build` makes it", err)
	}
	if err := unix.Mount("tmpfs", runDir, "tmpfs", 0, "mode=755"); err != nil {
		return nil, fmt.Errorf("mount a filesystem of the scene's own: %w", err)
	}
	s := &Scene{options: o, CA: filepath.Join(runDir, "ca.crt"), Home: filepath.Join(runDir, "home")}
	if s.Node, err = lab.NewNode(runDir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.Cloud, err = openCloud(ctx, o); err != nil {
		return nil, err
	}
	if err := errors.Join(os.WriteFile(s.CA, s.Cloud.authority.PEM(), 0o644), os.Mkdir(s.Home, 0o755)); err != nil {
		return nil, err
	}
	if err := s.call(o.Booted); err != nil {
		return nil, err
	}
	for _, w := range o.Workloads {
		if err := s.Start(w); err != nil {
			return nil, fmt.Errorf("pod %s: %w", w, err)
		}
	}
	if err := s.call(o.Unattended); err != nil {
		return nil, err
	}
	return s, s.startAgent(ctx)
}

func (s *Scene) call(f func(*Scene) error) error {
	if f == nil {
		return nil
	}
	return f(s)
}

func (s *Scene) startAgent(ctx context.Context) error {
	if err := os.WriteFile(s.kubeconfig(), s.Cloud.kubeconfig(), 0o600); err != nil {
		return err
	}
	a, err := newAgent(s.options.Agent, runDir, s.options.Config)
	if err != nil {
		return err
	}
	if s.options.Unready {
		s.Agent = a
		return a.start(s, s.kubeconfig(), s.options)
	}
	s.Agent, err = s.run(ctx, a)
	return err
}

// StateDir is the agents' state directory, which the first of them makes.
func (s *Scene) StateDir() string { return filepath.Join(runDir, "state") }

func (s *Scene) kubeconfig() string { return filepath.Join(runDir, "kubeconfig") }

// run starts the agent and waits until it is ready. It is returned also with
// an error, if it runs.
func (s *Scene) run(ctx context.Context, a *Agent) (*Agent, error) {
	if err := a.start(s, s.kubeconfig(), s.options); err != nil {
		return nil, err
	}
	if err := a.WaitReady(ctx); err != nil {
		return a, fmt.Errorf("%w\n%s", err, a.LastWords())
	}
	return a, nil
}

// Restart starts an agent again after the one before has ended, and waits until
// it is ready.
func (s *Scene) Restart(ctx context.Context) error { return s.RestartAs(ctx, s.Agent.path) }

// RestartAs is Restart of another program, which is the agent's from then on.
func (s *Scene) RestartAs(ctx context.Context, program string) error {
	s.agents++
	successor := s.Agent.successor(s.agents)
	successor.path = program
	next, err := s.run(ctx, successor)
	if next != nil {
		s.Agent = next
	}
	return err
}

// StartBeside starts a further agent, for the caller to end.
func (s *Scene) StartBeside() (*Agent, error) { return s.StartBesideAs(s.Agent.path) }

// StartBesideAs is StartBeside of another program.
func (s *Scene) StartBesideAs(program string) (*Agent, error) {
	s.agents++
	next := s.Agent.successor(s.agents)
	next.path = program
	return next, next.start(s, s.kubeconfig(), s.options)
}

// Upgrade starts another process of the agent beside the one that runs, waits
// until it is ready, and has the first one end: what a DaemonSet does that
// surges.
func (s *Scene) Upgrade(ctx context.Context) error { return s.UpgradeTo(ctx, s.Agent.path) }

// UpgradeTo is Upgrade to another program, which is the agent's from then on.
func (s *Scene) UpgradeTo(ctx context.Context, program string) error {
	former := s.Agent
	s.agents++
	successor := former.successor(s.agents)
	successor.path = program
	next, err := s.run(ctx, successor)
	if next != nil {
		s.Agent = next
	}
	if err != nil {
		return errors.Join(err, former.Kill())
	}
	if err := former.End(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, former.LastWords())
	}
	return nil
}

// Close ends all that the scene started.
func (s *Scene) Close() error {
	var errs []error
	if s.Agent != nil {
		errs = append(errs, s.Agent.Kill())
	}
	errs = append(errs, s.Node.Close())
	if s.Cloud != nil {
		errs = append(errs, s.Cloud.close())
	}
	return errors.Join(errs...)
}
