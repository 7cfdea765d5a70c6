package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/snapshot"
	"github.com/sidestep-agent/sidestep/pkg/status"
	"github.com/sidestep-agent/sidestep/pkg/taint"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// runUninstall runs the command where there is nothing of an agent, and not
// even a BPF filesystem: what it removes, the kernel tests show.
func runUninstall(t *testing.T, stateDir string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := newCommand(environment{stdout: &out, stderr: &out, getenv: func(string) string { return "" }})
	cmd.SetArgs(append([]string{
		"uninstall", "--bpffs", t.TempDir(), "--listen", "192.0.2.1:1", "--state-dir", stateDir,
		"--boot-program", t.TempDir() + "/agent", "--boot-config", t.TempDir() + "/boot.yaml", "--unit-dir", t.TempDir(),
	}, args...))
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestUninstallIsRefusedWhileAnAgentRuns(t *testing.T) {
	dir, err := os.MkdirTemp("", "state") // short enough for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- status.Serve(ctx, dir, "agent", func() status.Report { return status.Report{} }) }()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		answers, err := status.Answers(ctx, dir)
		if answers {
			break
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("the agent does not answer: %v", err)
		}
	}
	if out, err := runUninstall(t, dir); !errors.Is(err, errAgentRuns) || out != "" {
		t.Errorf("beside an agent: %q, %v", out, err)
	}
	if _, err := runUninstall(t, dir, "--force"); errors.Is(err, errAgentRuns) || !errors.Is(err, intercept.ErrNoBPFFS) {
		t.Errorf("with --force: %v, want it to have looked at the BPF filesystem", err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := runUninstall(t, dir); errors.Is(err, errAgentRuns) {
		t.Errorf("after the agent's end: %v", err)
	}
}

// What cannot be looked at is never said to be gone.
func TestUninstallWithoutBPFFS(t *testing.T) {
	for _, args := range [][]string{nil, {"--check"}} {
		out, err := runUninstall(t, t.TempDir(), args...)
		if !errors.Is(err, intercept.ErrNoBPFFS) || strings.Contains(out, "nothing") {
			t.Errorf("%v: %q, %v", args, out, err)
		}
	}
	if _, err := runUninstall(t, t.TempDir(), "--check", "--stay"); err == nil {
		t.Error("--check and --stay were taken together")
	}
}

// What an agent knew of pods does not stay on the node.
func TestUninstallRemovesTheSnapshot(t *testing.T) {
	dir := t.TempDir()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(snapshot.New(dir, snapshot.Origin{}).Write([]byte("pods"), time.Now()))
	out, _ := runUninstall(t, dir, "--check")
	if !strings.Contains(out, "found file "+dir+"/pods.snapshot\n") {
		t.Errorf("--check says %q", out)
	}
	found, err := leftovers(t.Context(), uninstallOptions{bpffs: t.TempDir(), stateDir: dir, listen: defaultListen})
	if !errors.Is(err, intercept.ErrNoBPFFS) {
		t.Fatal(err)
	}
	check(removeAll(environment{stdout: io.Discard}, found))
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// One thing that cannot be removed does not keep the rest.
func TestRemoveAllGoesOn(t *testing.T) {
	var out bytes.Buffer
	bad := errors.New("no")
	err := removeAll(environment{stdout: &out}, []workload.Leftover{
		{What: "one", Remove: func() error { return nil }},
		{What: "two", Remove: func() error { return bad }},
		{What: "three", Remove: func() error { return nil }},
	})
	if !errors.Is(err, bad) || !strings.Contains(err.Error(), "two") || out.String() != "removed one\nremoved three\n" {
		t.Errorf("%q, %v", &out, err)
	}
}

func TestTaintLeftovers(t *testing.T) {
	client := fake.NewClientset(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "clean"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "waiting"}, Spec: corev1.NodeSpec{
			Taints: []corev1.Taint{{Key: taint.Key}, {Key: "sku"}},
		}})
	if all, err := taintLeftovers(t.Context(), client, "clean"); err != nil || len(all) != 0 {
		t.Errorf("of a clean node: %v, %v", all, err)
	}
	all, err := taintLeftovers(t.Context(), client, "waiting")
	if err != nil || len(all) != 1 {
		t.Fatalf("of a node that waits: %v, %v", all, err)
	}
	if err := all[0].Remove(); err != nil {
		t.Fatal(err)
	}
	node, err := client.CoreV1().Nodes().Get(t.Context(), "waiting", metav1.GetOptions{})
	if err != nil || len(node.Spec.Taints) != 1 || node.Spec.Taints[0].Key != "sku" {
		t.Errorf("left %v, %v", node.Spec.Taints, err)
	}
	if _, err := taintLeftovers(t.Context(), client, ""); err == nil {
		t.Error("no node's name was taken")
	}
}
