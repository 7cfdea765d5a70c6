package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/overlay"
)

const (
	// Of a build with a leak.
	leakDuration = 9 * warmUp
	leakRate     = 100
	// stagger is between the starts of two builds with a leak, so that few of
	// them are busy at the same time.
	stagger = 30 * time.Second
)

// suite makes the run, and beside it one for each leak.
func suite(ctx context.Context, o options) error {
	if err := lab.Possible(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sidestep-soak-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	programs, err := build(ctx, dir)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	found := make([]result, len(leaks))
	for i := range leaks {
		group.Go(func() (err error) {
			if pause(ctx, time.Duration(i+1)*stagger) {
				found[i], err = child(ctx, options{leakDuration, leakRate, programs[1+i], programs[1+i] + ".json"}, io.Discard)
			}
			return err
		})
	}
	var whole result
	group.Go(func() (err error) {
		o.agent, o.result = programs[0], programs[0]+".json"
		if whole, err = child(ctx, o, os.Stdout); err == nil {
			whole.print(os.Stdout)
		}
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	seen := printLeaks(os.Stdout, found)
	fmt.Printf("soak: %s; injected leaks seen: %d of %d\n", whole.summary(), seen, len(leaks))
	if seen < len(leaks) {
		return errors.New("an injected leak was not seen")
	}
	return whole.verdict()
}

// build builds the agent, and after it once for each leak, and returns the
// programs' paths.
func build(ctx context.Context, dir string) ([]string, error) {
	paths := []string{filepath.Join(dir, "agent")}
	builds := [][]string{{"build", "-o", paths[0], "./cmd/agent"}}
	for i, l := range leaks {
		changed, err := overlay.Write(ctx, filepath.Join(dir, "without-"+strconv.Itoa(i)), l.edits)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		path := filepath.Join(dir, "agent-"+strconv.Itoa(i))
		paths = append(paths, path)
		builds = append(builds, []string{"build", "-overlay", changed, "-o", path, "./cmd/agent"})
	}
	for _, b := range builds {
		cmd := exec.CommandContext(ctx, "go", b...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go %v: %w\n%s", b, err, out)
		}
	}
	return paths, nil
}

// child makes a run in a process of its own, which has a lab of its own.
func child(ctx context.Context, o options, progress io.Writer) (r result, err error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-agent", o.agent, "-result", o.result,
		"-duration", o.duration.String(), "-rate", strconv.Itoa(o.rate))
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = progress, &errs
	// So that it removes its cgroups.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	if err := cmd.Run(); err != nil {
		return r, fmt.Errorf("run of %s: %w\n%s", filepath.Base(o.agent), err, errs.Bytes())
	}
	text, err := os.ReadFile(o.result)
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(text, &r)
}
