package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sidestep-agent/sidestep/test/scene"
)

const (
	// restTime is how long nothing happens while the agent's CPU time is counted.
	restTime = 60 * time.Second
	// restSettle is how long the agent has for what came before.
	restSettle   = 15 * time.Second
	podProcesses = 20
)

// measureRest returns the rows of an agent that nobody asks anything of: 250
// pods of 20 processes, and then one of them with 5,000 more, as many as all
// have. Nothing that it does may depend on how many processes there are.
func measureRest(ctx context.Context, o options, s *scene.Scene, r *report) error {
	pods, moreProcesses := make([]*scene.Workload, o.restPods), o.restPods*podProcesses
	group, starting := errgroup.WithContext(ctx)
	group.SetLimit(starters)
	for i := range pods {
		group.Go(func() error {
			pods[i] = newWorkload(fmt.Sprintf("rest-%d", i), i%crowdIdentities)
			if err := s.Start(pods[i]); err != nil {
				return err
			}
			return sleepers(starting, pods[i], podProcesses)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	few, err := restOf(ctx, s.Agent.PID())
	if err != nil {
		return err
	}
	if err := sleepers(ctx, pods[0], moreProcesses); err != nil {
		return err
	}
	many, err := restOf(ctx, s.Agent.PID())
	if err != nil {
		return err
	}
	r.Rows = append(r.Rows,
		valueRow(fmt.Sprintf("CPU at rest, %d pods of %d processes", o.restPods, podProcesses),
			fmt.Sprintf("%.3f %% of a core", few.cpu), "–", few.cpu, atMost(0.1, " %")),
		valueRow(fmt.Sprintf("the same with %d processes more in one of them", moreProcesses),
			fmt.Sprintf("%.3f %% of a core", many.cpu), fmt.Sprintf("%.3f %%", few.cpu), many.cpu-few.cpu, atMost(0.02, " points more")),
		// One read for each process would be 5,000, and the agent once looked at
		// all of them every five seconds.
		valueRow(fmt.Sprintf("reads in 60 s at rest for %d processes more", moreProcesses),
			fmt.Sprintf("%+d", many.reads-few.reads), strconv.Itoa(few.reads)+" before", float64(many.reads-few.reads), atMost(500, "")))
	return nil
}

// rest is what a process did in restTime.
type rest struct {
	cpu   float64 // per cent of a core, by the scheduler's nanoseconds
	reads int     // read calls, of whatever
}

func restOf(ctx context.Context, pid int) (out rest, err error) {
	if err := sleep(ctx, restSettle); err != nil {
		return out, err
	}
	cpu, errCPU := cpuTime(pid)
	reads, errReads := readCalls(pid)
	began := time.Now()
	err = sleep(ctx, restTime)
	lasted := time.Since(began)
	used, errUsed := cpuTime(pid)
	readsThen, errThen := readCalls(pid)
	for _, e := range []error{errCPU, errReads, err, errUsed, errThen} {
		if e != nil {
			return out, e
		}
	}
	return rest{100 * (used - cpu).Seconds() / lasted.Seconds(), readsThen - reads}, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// readCalls returns how many read calls a process has made, from proc(5).
func readCalls(pid int) (n int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if c, _ := fmt.Sscanf(line, "syscr: %d", &n); c == 1 {
			return n, nil
		}
	}
	return 0, fmt.Errorf("process %d has no count of its reads", pid)
}

// sleepers starts so many processes in the pod that do nothing, and waits until
// they are there. They end with the pod.
func sleepers(ctx context.Context, w *scene.Workload, n int) error {
	procs := filepath.Join(w.Pod.Container, "cgroup.procs")
	before, err := lineCount(procs)
	if err != nil {
		return err
	}
	script := fmt.Sprintf("i=0; while [ $i -lt %d ]; do sleep infinity & i=$((i+1)); done; wait", n-1)
	if err := w.Pod.Start(exec.CommandContext(context.WithoutCancel(ctx), "sh", "-c", script)); err != nil {
		return err
	}
	for {
		now, err := lineCount(procs)
		if err != nil || now >= before+n {
			return err
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

func lineCount(path string) (int, error) {
	text, err := os.ReadFile(path)
	return strings.Count(string(text), "\n"), err
}
