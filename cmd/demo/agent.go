package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/status"
	"github.com/sidestep-agent/sidestep/test/lab"
)

const (
	metricsAddress = "127.0.0.1:9402"
	// patience is how long the agent may take for what it does at once.
	patience = 20 * time.Second
)

// agent is the agent's program as a process on the lab's node.
type agent struct {
	path       string
	config     string // its configuration file
	stateDir   string
	log        record
	process    *exec.Cmd
	ended      chan struct{} // closed when the process is gone
	started    time.Time
	readyAfter time.Duration
}

// newAgent writes the first configuration; nothing runs yet.
func newAgent(path, dir string) (*agent, error) {
	a := &agent{
		path: path, config: filepath.Join(dir, "config", "config.yaml"),
		stateDir: filepath.Join(dir, "state"), ended: make(chan struct{}),
	}
	if err := os.Mkdir(filepath.Dir(a.config), 0o755); err != nil {
		return nil, err
	}
	return a, a.configure(config.UnlabeledPass)
}

// start starts the process. It has nothing of the demo's environment.
func (a *agent) start(node *lab.Node, kubeconfig, ca string) error {
	const here = "/proc/self/ns/net"
	// The agent itself asks the metadata service for what it relays.
	if err := lab.CheckIsolated(here, here); err != nil {
		return err
	}
	a.process = exec.CommandContext(context.Background(), a.path, "run",
		"--node-name", nodeName, "--kubeconfig", kubeconfig, "--config", a.config,
		"--cgroup-root", node.CgroupRoot, "--kubepods-cgroup", node.Kubepods,
		"--kubelet-dir", node.KubeletDir, "--bpffs", node.BPFFS,
		"--authority-host", entraURL, "--tenant-id", tenantID,
		"--metrics-address", metricsAddress, "--state-dir", a.stateDir)
	a.process.Env = []string{"SSL_CERT_FILE=" + ca}
	a.process.Stderr = &a.log
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

// kill ends the process as a crash would and waits until it is gone.
func (a *agent) kill() error {
	if a.process == nil {
		return nil
	}
	if err := a.process.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-a.ended
	return nil
}

// waitReady waits until the agent says that pods are served.
func (a *agent) waitReady(ctx context.Context) error {
	err := a.await(ctx, "the agent is ready", func() (bool, error) {
		resp, err := get(ctx, "http://"+metricsAddress+"/readyz")
		if err != nil {
			return false, nil // it does not listen yet
		}
		return resp.status == http.StatusOK, nil
	})
	a.readyAfter = time.Since(a.started)
	return err
}

// configure writes a configuration in place of the last one, at a stroke.
func (a *agent) configure(unlabeled config.Unlabeled) error {
	text := fmt.Sprintf("apiVersion: %s\nkind: %s\nunlabeled: %s\n", config.APIVersion, config.Kind, unlabeled)
	next := a.config + ".next"
	if err := os.WriteFile(next, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(next, a.config)
}

// waitInForce waits until the agent reports that the configuration's word on
// unlabelled pods decides about the pod, and that the kernel acts by it.
func (a *agent) waitInForce(ctx context.Context, podUID string, unlabeled config.Unlabeled) error {
	want := "unlabeled: " + string(unlabeled)
	return a.await(ctx, want+" is in force", func() (bool, error) {
		report, err := a.status(ctx)
		if err != nil {
			return false, err
		}
		decided := slices.ContainsFunc(report.Pods, func(p status.Pod) bool {
			return p.UID == podUID && p.Reason == want && p.CgroupID != 0
		})
		return decided && len(report.Problems) == 0, nil
	})
}

// status runs `agent status`.
func (a *agent) status(ctx context.Context) (status.Report, error) {
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

// await asks until so says yes, the agent ends, or patience does.
func (a *agent) await(ctx context.Context, what string, so func() (bool, error)) error {
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

// lastWords returns the end of the agent's log for people to read.
func (a *agent) lastWords() string {
	const lines = 25
	all := strings.SplitAfter(string(a.log.whole()), "\n")
	all = all[:len(all)-1] // what follows the last line's end
	if len(all) == 0 {
		return "the agent wrote no log\n"
	}
	return "the end of the agent's log:\n" + strings.Join(all[max(0, len(all)-lines):], "")
}

// alive reports whether the process runs.
func (a *agent) alive() bool {
	select {
	case <-a.ended:
		return false
	default:
		return a.process != nil
	}
}
