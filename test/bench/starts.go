package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sidestep-agent/sidestep/test/scene"
)

const (
	// startsAtATime is how many pods are being started at a time.
	startsAtATime = 4
	// boundAhead is how many starts before its own a pod is bound to the node.
	// The kubelet makes volumes between, and a sandbox.
	boundAhead = 16
	// runtimeTime is the least that a container runtime takes for a container
	// after its pod's sandbox: runc alone was seen to need 10 to 20 ms.
	runtimeTime = 10 * time.Millisecond
)

// Exit statuses of firstprocess, besides 0.
const (
	exitHeld    = 10
	exitRefused = 11
)

// starts counts where the first processes of pods were led.
type starts struct {
	scene *scene.Scene
	first string // the program

	mu      sync.Mutex
	led     map[int]int      // by exit status
	at      map[string]int64 // when the first process connected, by pod UID
	between []float64        // milliseconds from the pod's making to its first process
}

// measureStarts starts pods one by one, as far as the kernel is concerned:
// cgroups, a process that holds a new network namespace, a veth pair; and then
// the first process of the application, which connects to the metadata service.
// It returns the row of how many were steered.
func measureStarts(ctx context.Context, o options, s *scene.Scene, r *report) (err error) {
	passed, err := connects(ctx, "pass")
	if err != nil {
		return err
	}
	watcher, err := startSession(nil, "notice")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, watcher.end()) }()
	pods := filepath.Join(s.Node.Kubepods, "burstable")
	if err := watcher.ask(pods, &noticed{}); err != nil {
		return err
	}
	c := &starts{scene: s, first: o.first, led: map[int]int{}, at: map[string]int64{}}
	if err := c.run(ctx, o.starts); err != nil {
		return err
	}
	after, err := connects(ctx, "pass")
	if err != nil {
		return err
	}
	if after != passed {
		return fmt.Errorf("%.0f pods were let through to the node's metadata service", after-passed)
	}
	saw := noticed{}
	if err := watcher.ask(pods, &saw); err != nil {
		return err
	}
	return c.report(r, saw)
}

// run starts so many pods.
func (c *starts) run(ctx context.Context, n int) error {
	pods := make([]*scene.Workload, n)
	for i := range pods {
		pods[i] = newWorkload("start-"+strconv.Itoa(i), i%crowdIdentities)
		pods[i].Federated = false // it asks for no token
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(startsAtATime)
	for i, w := range pods {
		if i == 0 {
			announce(c.scene, pods[:min(boundAhead, n)]...)
		} else if i+boundAhead <= n {
			announce(c.scene, pods[i+boundAhead-1])
		}
		group.Go(func() error { return c.start(ctx, w) })
	}
	return group.Wait()
}

// report adds the row.
func (c *starts) report(r *report, saw noticed) error {
	n, steered, held, refused := len(c.at), c.led[0], c.led[exitHeld], c.led[exitRefused]
	if steered+held+refused != n {
		return fmt.Errorf("first processes ended in another way: %v", c.led)
	}
	inTime := 0
	for uid, at := range c.at {
		if seen, ok := saw[uid]; ok && seen < at {
			inTime++
		}
	}
	share, minimal := percent(steered, n), percent(inTime, n)
	row := valueRow(fmt.Sprintf("first process already steered, %d starts", n), fmt.Sprintf("%.2f %%", share), "–", share, atLeast(99.9, " %"))
	row.boundBy(minimal, atLeast(99.9, " %"), fmt.Sprintf("%.2f %% seen by a watcher", minimal))
	r.Rows = append(r.Rows, row)
	r.Notes = append(r.Notes, fmt.Sprintf("of %d starts %d were steered at the first instruction, %d held, %d refused; the first process came %.0f ms after its pod (median)",
		n, steered, held, refused, median(c.between)))
	return nil
}

func percent(part, all int) float64 { return 100 * float64(part) / float64(all) }

func announce(s *scene.Scene, all ...*scene.Workload) {
	for _, w := range all {
		s.Announce(w)
	}
}

func (c *starts) start(ctx context.Context, w *scene.Workload) (err error) {
	began := time.Now()
	if err := c.scene.Start(w); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.scene.Stop(w)) }()
	time.Sleep(runtimeTime)
	cmd := exec.CommandContext(ctx, c.first)
	cmd.Env = []string{}
	var when strings.Builder
	cmd.Stdout = &when
	if err := w.Pod.Start(cmd); err != nil {
		return err
	}
	took := time.Since(began)
	if err := ignoreExit(cmd.Wait()); err != nil {
		return err
	}
	at, err := strconv.ParseInt(when.String(), 10, 64)
	if err != nil && cmd.ProcessState.ExitCode() != exitRefused {
		return fmt.Errorf("when the first process connected: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at[w.Pod.UID] = at
	c.led[cmd.ProcessState.ExitCode()]++
	c.between = append(c.between, float64(took.Microseconds())/1e3)
	return nil
}

// connects returns how many connects the kernel has counted with a verdict.
func connects(ctx context.Context, verdict string) (sum float64, err error) {
	text, err := scene.Metrics(ctx)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "sidestep_connects_total{") || !strings.Contains(line, `verdict="`+verdict+`"`) {
			continue
		}
		_, value, _ := strings.Cut(line, "} ")
		n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}
