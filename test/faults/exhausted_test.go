package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/status"
	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/scene"
)

// limitDescriptors has the running agent open no file that has a number from
// there on. The function returns what it may then.
func (r *rig) limitDescriptors(most uint64) (restore func()) {
	r.t.Helper()
	var had unix.Rlimit
	pid := r.Agent.PID()
	check(r.t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &had))
	check(r.t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: had.Max}, nil))
	return func() { check(r.t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &had, nil)) }
}

// busy returns for how long the agent has used a processor.
func (r *rig) busy() time.Duration {
	r.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.Agent.PID()))
	check(r.t, err)
	var user, system int64 // fields 14 and 15 (proc(5)), counted after the name
	_, after, _ := strings.Cut(string(stat), ") ")
	_, err = fmt.Sscanf(after, "%s %d %d %d %d %d %d %d %d %d %d %d %d",
		new(string), new(int), new(int), new(int), new(int), new(int), new(uint), new(uint), new(uint), new(uint), new(uint), &user, &system)
	check(r.t, err)
	return time.Duration(user+system) * time.Second / 100 // USER_HZ
}

// Who asks meanwhile waits in the listener's queue. Nothing that was known is
// forgotten: what can only be looked at with a descriptor stays as it was.
func TestDescriptorsExhausted(t *testing.T) {
	r := open(t, "descriptors exhausted (RLIMIT_NOFILE)", "who asks waits, and is answered later; nothing is forgotten, no spin")
	listener := r.listener(r.Agent)
	end := r.watch(ownToken)
	restore := r.limitDescriptors(0)
	since, busy := time.Now(), r.busy()
	r.disturb()
	waiting := make(chan string, 1)
	go func() { waiting <- r.ask(r.steered) }()
	next, err := r.StartBeside() // asks to take over, and waits as well
	check(t, err)
	r.logged("cannot accept")
	time.Sleep(2 * time.Second)
	if used, took := r.busy()-busy, time.Since(since); used > took/2 {
		t.Errorf("the agent was busy for %v of %v", used, took)
	}
	said := strings.Count(string(r.Agent.Log.Whole()), "cannot accept")
	restore()
	if got := <-waiting; got != ownToken {
		t.Errorf("who waited got: %s", got)
	}
	r.takesOver(next, listener)
	end()
	r.see("said %d times that it cannot accept; who waited got its token, and the next agent took over", said)
	if said > 5 {
		t.Errorf("said %d times that it cannot accept", said)
	}
}

// disturb has the agent look at everything: a container that starts, a level of
// the tree that comes, a pod that is not known and that asks.
func (r *rig) disturb() {
	r.t.Helper()
	check(r.t, os.Mkdir(filepath.Join(r.passing.Pod.Cgroup, strings.Repeat("ab", 32)), 0o755))
	check(r.t, os.Mkdir(filepath.Join(r.Node.Kubepods, "besteffort"), 0o755))
	stranger, err := r.Node.StartPod(lab.PodOptions{})
	check(r.t, err)
	r.strangers = append(r.strangers, stranger)
	got, err := lab.Run[asking, answers](r.t.Context(), stranger, "ask", asking{Patience: impatience})
	check(r.t, err)
	r.see("a pod not known: %v", got)
	if !got.only(noAnswer) {
		r.t.Errorf("a pod that is not known got %v, want to be held", got)
	}
}

// takesOver waits until the agent has taken over with the listener that there
// was.
func (r *rig) takesOver(next *scene.Agent, listener uint16) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	former := r.Agent
	r.Agent = next
	check(r.t, next.WaitReady(ctx))
	check(r.t, former.End(ctx))
	if got := r.listener(next); got != listener || got == 0 {
		r.t.Errorf("the steered pod's listener is at port %d, was at %d", got, listener)
	}
}

// listener returns the port of the steered pod's listener.
func (r *rig) listener(a *scene.Agent) uint16 {
	r.t.Helper()
	report, err := a.Status(r.t.Context())
	check(r.t, err)
	i := slices.IndexFunc(report.Pods, func(p status.Pod) bool { return p.UID == r.steered.Pod.UID })
	if i < 0 {
		r.t.Fatalf("%s is not in the report", r.steered)
	}
	return report.Pods[i].Listener
}

// A full disk takes nothing from pods. An agent that starts meanwhile serves,
// and can be asked for its status once there is room.
func TestStateDirectoryFull(t *testing.T) {
	r := open(t, "state directory full", "served; so by an agent that starts meanwhile, which says so")
	check(t, r.Agent.Kill())
	check(t, unix.Mount("tmpfs", r.Agent.StateDir(), "tmpfs", 0, "size=64k,nr_inodes=12"))
	check(t, r.Restart(t.Context()))
	end := r.watch(ownToken)
	fill(t, r.Agent.StateDir())
	r.want(r.steered, ownToken)
	end()
	check(t, r.Agent.Kill())
	next, err := r.StartBeside()
	check(t, err)
	r.Agent = next
	r.logged("the state directory is full")
	r.eventually("the next agent serves", func() bool { return r.ask(r.steered) == ownToken })
	r.want(r.passing, nodeToken)
	check(t, os.RemoveAll(filepath.Join(r.Agent.StateDir(), "full")))
	r.sound()
	r.see("the next agent serves, and is asked once there is room")
}

// fill leaves no room for a file in the directory, nor in any that is there.
func fill(t *testing.T, dir string) {
	t.Helper()
	dir = filepath.Join(dir, "full")
	check(t, os.Mkdir(dir, 0o700))
	if err := os.WriteFile(filepath.Join(dir, "large"), make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("write more than there is room for: %v", err)
	}
	for i := range 100 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); errors.Is(err, unix.ENOSPC) {
			return
		}
	}
	t.Fatal("the disk is never full")
}
