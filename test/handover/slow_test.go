package handover

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/test/faults/row"
	"github.com/sidestep-agent/sidestep/test/handover/changes"
	"github.com/sidestep-agent/sidestep/test/scene"
)

// An agent that gets no processor once its successor has everything, for longer
// than any other step may take, may have let go already: the successor waits for
// its word, and clients wait in the queues of listeners that both have.
func TestHolderWithoutAProcessor(t *testing.T) {
	const stopped = 11 * time.Second // a step may take 10
	slow := build(t, "momentary", changes.Momentary)
	s, all := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	check(t, s.UpgradeTo(ctx, slow))
	end := begin(t, all)
	awaitIssued(t, s, pods)
	former := s.Agent
	at(t, changes.Heard, "stop")
	next, err := s.StartBesideAs(*program)
	check(t, err)
	awaitState(ctx, t, former, 'T')
	at(t, "", "")
	time.Sleep(stopped) // the fault itself
	if bytes.Contains(next.Log.Whole(), []byte("handed over")) {
		t.Errorf("the successor has given up\n%s", next.LastWords())
	}
	check(t, former.Signal(syscall.SIGCONT))
	check(t, next.WaitReady(ctx))
	check(t, former.End(ctx))
	s.Agent = next
	sum := end()
	t.Log(row.Row{
		Fault:    fmt.Sprintf("the old agent gets no processor for %v, its successor has everything", stopped),
		Expected: "the successor waits; 0 failed, 0 reset, 0 wrong",
		Seen: fmt.Sprintf("waited; %d requests: %d failed, %d reset, %d wrong",
			sum.Requests, sum.Failed, sum.Reset, sum.Wrong),
	})
	wantNoneLost(t, s, sum)
}

// awaitState waits until the agent's process is in the state (proc(5)).
func awaitState(ctx context.Context, t *testing.T, a *scene.Agent, state byte) {
	t.Helper()
	for {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.PID()))
		check(t, err)
		_, after, _ := bytes.Cut(text, []byte(") "))
		if len(after) > 0 && after[0] == state {
			return
		}
		check(t, ctx.Err())
		time.Sleep(10 * time.Millisecond)
	}
}
