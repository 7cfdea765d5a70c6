package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
)

var tasks = map[string]func(io.Reader, io.Writer) error{}

// Register makes a function of this program a task, which Run starts as a
// process in a pod: what a pod's application would do. It is called from
// init, since the process is this program once more. The task is locked to its
// thread; goroutines that it starts are not.
func Register[In, Out any](name string, task func(In) (Out, error)) {
	tasks[name] = func(r io.Reader, w io.Writer) error {
		var in In
		if err := json.NewDecoder(r).Decode(&in); err != nil {
			return err
		}
		out, err := task(in)
		if err != nil {
			return err
		}
		return json.NewEncoder(w).Encode(out)
	}
}

// TasksVariable may name, in the environment of a test that is built with the
// race detector, the same test built without it: its tasks are run from that
// then. They stand for applications and attackers and are several hundred
// processes, and with the race detector the start of each costs a quarter of a
// second.
const TasksVariable = "SIDESTEP_LAB_TASKS"

// tasksFile is the file that TasksVariable names, open as long as this process
// runs; nil if it names none.
var tasksFile *os.File

// openTasks opens what TasksVariable names.
func openTasks() (err error) {
	if path := os.Getenv(TasksVariable); path != "" {
		tasksFile, err = os.Open(path)
	}
	return err
}

// Program returns the path of this program, to be run as a task.
func Program() string {
	process := "/proc/" + strconv.Itoa(os.Getpid())
	if tasksFile != nil {
		return process + "/fd/" + strconv.Itoa(int(tasksFile.Fd()))
	}
	return process + "/exe"
}

// TaskEnvironment returns the environment with which this program is the task.
func TaskEnvironment(name string) []string {
	// The race detector would have each task linger for a second.
	return []string{envTask + "=" + name, "GORACE=atexit_sleep_ms=0"}
}

// IsTask reports whether this process is to run a task: Main is what does.
func IsTask() bool { return os.Getenv(envTask) != "" }

func runTask(name string) int {
	task, ok := tasks[name]
	if !ok {
		fmt.Fprintln(os.Stderr, "lab: no task", name)
		return 1
	}
	// What a task changes about itself (unshare, setns, prctl ...) holds for its
	// thread alone, and must hold for all that it does afterwards.
	runtime.LockOSThread()
	if err := task(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// Run runs a registered task as a process in the pod's container and returns
// what it returned.
func Run[In, Out any](ctx context.Context, p *Pod, name string, in In) (Out, error) {
	return RunIn[In, Out](ctx, p, p.Container, name, in)
}

// RunIn is Run with another cgroup.
func RunIn[In, Out any](ctx context.Context, p *Pod, cgroup, name string, in In) (Out, error) {
	var out Out
	input, err := json.Marshal(in)
	if err != nil {
		return out, err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, Program())
	cmd.Env = TaskEnvironment(name)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &stdout, &stderr
	if err := p.StartIn(cgroup, cmd); err != nil {
		return out, err
	}
	if err := cmd.Wait(); err != nil {
		return out, fmt.Errorf("task %s: %w: %s", name, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, json.Unmarshal(stdout.Bytes(), &out)
}
