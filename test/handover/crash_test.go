package handover

import (
	"context"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sidestep-agent/sidestep/test/handover/changes"
	"github.com/sidestep-agent/sidestep/test/load"
	"github.com/sidestep-agent/sidestep/test/scene"
)

// A successor that is killed at some moment of the hand-over leaves either the
// old agent serving, as if nothing had been, or a lock that is free: then the
// old one ends by itself, and the next one starts as on a fresh node. So it is
// between two versions of the hand-over.
func TestSuccessorKilled(t *testing.T) {
	programs := []string{*program, build(t, "raised", changes.Raised)}
	s, all := open(t)
	stayed, ended := 0, 0
	for moment := range 9 {
		next, err := s.StartBesideAs(programs[moment%2])
		check(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if moment < 8 {
			time.Sleep(time.Duration(moment) * 40 * time.Millisecond) // where this is shall differ
		} else {
			check(t, next.WaitReady(ctx))
		}
		check(t, next.Kill())
		if served(t, all[0]) {
			stayed++
			cancel()
			continue
		}
		ended++
		check(t, s.Agent.WaitEnd(ctx))
		check(t, s.Restart(ctx))
		cancel()
		if !served(t, all[0]) {
			t.Fatal("not served after a cold start")
		}
	}
	t.Logf("killed while the old agent still served: %d, after it had handed over: %d", stayed, ended)
	if stayed == 0 || ended == 0 {
		t.Error("the successor was never killed before it had taken over, or never after")
	}
}

// An agent that is killed leaves nothing that keeps the next one from serving.
func TestHolderKilled(t *testing.T) {
	s, all := open(t)
	check(t, s.Agent.Kill())
	if served(t, all[0]) {
		t.Fatal("served without an agent")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	check(t, s.Restart(ctx))
	if !served(t, all[0]) {
		t.Error("not served by the next agent")
	}
}

// An agent that is asked to stop, with none to follow it, first asks its
// clients: none finds a connection broken that it has used.
func TestEndWithoutASuccessor(t *testing.T) {
	s, all := open(t)
	end := begin(t, all[:1])
	var agent errgroup.Group
	agent.Go(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		time.Sleep(time.Second) // of load
		return s.Agent.End(ctx)
	})
	check(t, agent.Wait())
	sum := end()
	if sum.Closing == 0 {
		t.Error("no client was asked to leave")
	}
	for _, note := range sum.Notes {
		// Who comes when no agent is left is refused.
		if !strings.HasPrefix(note, load.NewConnection) {
			t.Error(note)
		}
	}
}

// served reports whether the pod gets its token now.
func served(t *testing.T, w *scene.Workload) bool {
	t.Helper()
	sum, err := w.Ask(t.Context(), "", load.Options{
		Workers: 1, Every: every, Idle: every, Requests: 1, Client: w.Annotations[scene.ClientIDAnnotation],
	})
	check(t, err)
	return sum.Bad() == 0
}
