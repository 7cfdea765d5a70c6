package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// commandTime bounds each command; what waits inside says its own limit.
const commandTime = 90 * time.Second

// tryInNode runs a command in the node's namespaces and returns what it wrote
// to stdout.
func tryInNode(stdin []byte, command ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	// A command of one word is a line for the shell to exec.sh.
	cmd := exec.CommandContext(ctx, scripts+"/exec.sh", append([]string{"env"}, command...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

func inNode(t *testing.T, command ...string) string {
	t.Helper()
	out, err := tryInNode(nil, command...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return inNode(t, append([]string{"kubectl"}, args...)...)
}

// tryList gives the objects as one list to a command of kubectl.
func tryList(objects []any, command ...string) (string, error) {
	list, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": objects})
	if err != nil {
		return "", err
	}
	return tryInNode(list, append(append([]string{"kubectl"}, command...), "-f", "-")...)
}

func mustList(t *testing.T, objects []any, command ...string) {
	t.Helper()
	if _, err := tryList(objects, command...); err != nil {
		t.Fatal(err)
	}
}

func tryApply(objects ...any) (string, error) { return tryList(objects, "apply") }

func apply(t *testing.T, objects ...any) string {
	t.Helper()
	out, err := tryApply(objects...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// manifest returns the path of a file or overlay as the node sees it: the
// machine's root is the node's.
func manifest(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(manifests, name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// eventually asks until there is no error, and fails the test with the last
// one after limit. It returns how long it took.
func eventually(t *testing.T, limit time.Duration, ask func() error) time.Duration {
	t.Helper()
	start := time.Now()
	for {
		err := ask()
		took := time.Since(start)
		if err == nil {
			return took
		}
		if took > limit {
			t.Fatalf("still after %s: %v", took.Round(time.Second), err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
