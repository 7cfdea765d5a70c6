package scene

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/status"
	"github.com/sidestep-agent/sidestep/test/lab"
)

// MetricsAddress is where the agent serves its metrics, on the node.
const MetricsAddress = "127.0.0.1:9402"

// patience is how long the agent may take for what it does at once.
const patience = 20 * time.Second

// Agent is the agent's program as a process on the lab's node.
type Agent struct {
	Log        Record
	ReadyAfter time.Duration

	path     string
	instance string
	config   string // its configuration file
	stateDir string
	process  *exec.Cmd
	ended    chan struct{} // closed when the process is gone
	started  time.Time
}

// newAgent writes the first configuration, which lets pods without a label pass
// if text is empty; nothing runs yet.
func newAgent(path, dir, text string) (*Agent, error) {
	a := &Agent{
		path: path, instance: "agent", config: filepath.Join(dir, "config", "config.yaml"),
		stateDir: filepath.Join(dir, "state"), ended: make(chan struct{}),
	}
	if err := os.Mkdir(filepath.Dir(a.config), 0o755); err != nil {
		return nil, err
	}
	if text != "" {
		return a, a.WriteConfig(text)
	}
	return a, a.Configure(config.UnlabeledPass)
}

// successor returns an agent of the same settings that does not run yet.
func (a *Agent) successor(number int) *Agent {
	return &Agent{
		path: a.path, instance: fmt.Sprintf("agent-%d", number), config: a.config, stateDir: a.stateDir,
		ended: make(chan struct{}),
	}
}

// start starts the process. It has nothing of this program's environment.
func (a *Agent) start(s *Scene, kubeconfig string, o Options) error {
	const here = "/proc/thread-self/ns/net"
	// The agent itself asks the metadata service for what it relays.
	if err := lab.CheckIsolated(here, here); err != nil {
		return err
	}
	a.process = exec.CommandContext(context.Background(), a.path, "run",
		"--node-name", nodeName, "--kubeconfig", kubeconfig, "--config", a.config,
		"--cgroup-root", s.Node.CgroupRoot, "--kubepods-cgroup", s.Node.Kubepods,
		"--kubelet-dir", s.Node.KubeletDir, "--bpffs", s.Node.BPFFS,
		"--authority-host", EntraURL, "--tenant-id", s.Cloud.Federation.Tenants[0],
		"--metrics-address", MetricsAddress, "--state-dir", a.stateDir, "--instance", a.instance,
		"--drain-timeout", "0") // an agent that is stopped ends
	for flag, value := range map[string]string{"--log-level": o.LogLevel, "--guard": o.Guard} {
		if value != "" {
			a.process.Args = append(a.process.Args, flag, value)
		}
	}
	a.process.Args = append(a.process.Args, o.Flags...)
	a.process.Env = append([]string{"SSL_CERT_FILE=" + s.CA}, o.Env...)
	a.process.Stderr = &a.Log
	a.started = time.Now()
	if err := a.process.Start(); err != nil {
		return err
	}
	go func() {
		_ = a.process.Wait() // what ended it is in its log
		close(a.ended)
	}()
	return nil
}

// PID returns the process's id.
func (a *Agent) PID() int { return a.process.Process.Pid }

// Kill ends the process as a crash would and waits until it is gone.
func (a *Agent) Kill() error {
	if a.process == nil {
		return nil
	}
	if err := a.process.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-a.ended
	return nil
}

// End tells the process to end, as the kubelet does, and waits until it has.
func (a *Agent) End(ctx context.Context) error {
	if err := a.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return a.WaitEnd(ctx)
}

// WaitEnd waits until the process has ended.
func (a *Agent) WaitEnd(ctx context.Context) error {
	select {
	case <-a.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the agent's end: %w", ctx.Err())
	}
}

// StateDir returns its state directory, which all agents of the scene share.
func (a *Agent) StateDir() string { return a.stateDir }

// Signal sends the process a signal.
func (a *Agent) Signal(s os.Signal) error { return a.process.Process.Signal(s) }

// WaitReady waits until the agent says that pods are served.
func (a *Agent) WaitReady(ctx context.Context) error {
	err := a.await(ctx, "the agent is ready", func() (bool, error) {
		cmd := exec.CommandContext(ctx, a.path, "status", "--ready", "--state-dir", a.stateDir, "--instance", a.instance)
		cmd.Env = []string{}
		return cmd.Run() == nil, nil
	})
	a.ReadyAfter = time.Since(a.started)
	return err
}

// Config returns the path of its configuration file.
func (a *Agent) Config() string { return a.config }

// Configure writes a configuration in place of the last one that says no more
// than this.
func (a *Agent) Configure(unlabeled config.Unlabeled) error {
	return a.WriteConfig(fmt.Sprintf("apiVersion: %s\nkind: %s\nunlabeled: %s\n",
		config.APIVersion, config.Kind, unlabeled))
}

// WriteConfig puts a text in the place of the configuration file, at a stroke.
func (a *Agent) WriteConfig(text string) error {
	next := a.config + ".next"
	if err := os.WriteFile(next, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(next, a.config)
}

// WaitApplied waits until the agent reports that the configuration's word on
// unlabelled pods decides about the pod, and that the kernel acts by it.
func (a *Agent) WaitApplied(ctx context.Context, podUID string, unlabeled config.Unlabeled) error {
	want := "unlabeled: " + string(unlabeled)
	return a.await(ctx, want+" is applied", func() (bool, error) {
		report, err := a.Status(ctx)
		if err != nil {
			return false, err
		}
		decided := slices.ContainsFunc(report.Pods, func(p status.Pod) bool {
			return p.UID == podUID && p.Reason == want && p.CgroupID != 0
		})
		return decided && len(report.Problems) == 0, nil
	})
}

// Status returns what `agent status` reports.
func (a *Agent) Status(ctx context.Context) (status.Report, error) {
	cmd := exec.CommandContext(ctx, a.path, "status", "--state-dir", a.stateDir, "-o", "json")
	cmd.Env = []string{}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return status.Report{}, fmt.Errorf("agent status: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	var report status.Report
	if err := json.Unmarshal(out, &report); err != nil {
		return status.Report{}, fmt.Errorf("agent status: %w", err)
	}
	return report, nil
}

// Check runs `agent check` and returns what it printed; an error if it found
// something to fix.
func (a *Agent) Check(ctx context.Context, s *Scene) (string, error) {
	cmd := exec.CommandContext(ctx, a.path, "check", "--cgroup-root", s.Node.CgroupRoot,
		"--kubepods-cgroup", s.Node.Kubepods, "--kubelet-dir", s.Node.KubeletDir, "--bpffs", s.Node.BPFFS)
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// await asks until so says yes, the agent ends, or patience does.
func (a *Agent) await(ctx context.Context, what string, so func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := so()
		if ok {
			return nil
		}
		select {
		case <-tick.C:
		case <-a.ended:
			return fmt.Errorf("wait until %s: the agent has ended", what)
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("wait until %s: %w", what, ctx.Err()), err)
		}
	}
}

// WaitProblem waits until the agent reports that it is not ready, and a problem
// with the words in it.
func (a *Agent) WaitProblem(ctx context.Context, words string) error {
	return a.await(ctx, "a problem is reported: "+words, func() (bool, error) {
		report, err := a.Status(ctx)
		if err != nil {
			return false, err
		}
		named := slices.ContainsFunc(report.Problems, func(p string) bool { return strings.Contains(p, words) })
		return named && !report.Ready, nil
	})
}

// LastWords returns the end of the agent's log for people to read.
func (a *Agent) LastWords() string {
	const lines = 25
	all := strings.SplitAfter(string(a.Log.Whole()), "\n")
	all = all[:len(all)-1] // what follows the last line's end
	if len(all) == 0 {
		return "the agent wrote no log\n"
	}
	return "the end of the agent's log:\n" + strings.Join(all[max(0, len(all)-lines):], "")
}

// Alive reports whether the process runs.
func (a *Agent) Alive() bool {
	select {
	case <-a.ended:
		return false
	default:
		return a.process != nil
	}
}
