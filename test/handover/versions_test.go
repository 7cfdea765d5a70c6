package handover

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/test/faults/row"
	"github.com/sidestep-agent/sidestep/test/handover/changes"
	"github.com/sidestep-agent/sidestep/test/load"
	"github.com/sidestep-agent/sidestep/test/scene"
)

// An upgrade to an agent whose hand-over has one version more loses nothing,
// and neither does the way back. Between two of the new ones the new version is
// spoken.
func TestRolledBetweenVersions(t *testing.T) {
	next := build(t, "raised", changes.Raised)
	s, all := open(t)
	first := *program
	ended := begin(t, all)
	awaitIssued(t, s, pods)
	started, upgrades := time.Now(), 0
	spoken := map[int]int{}
	for roll := range *rolls {
		steps := []string{next, first}
		if roll == 0 {
			steps = []string{next, next, first}
		}
		for i, to := range steps {
			want := 1
			if len(steps) == 3 && i == 1 {
				want = 2
			}
			upgradeTo(t, s, to, want)
			upgrades++
			spoken[want]++
		}
	}
	sum := ended()
	took := time.Since(started)
	r := row.Row{
		Fault:    fmt.Sprintf("versions of the hand-over, rolled 1 -> 2 -> 1, %d times", *rolls),
		Expected: "0 failed, 0 reset, 0 wrong",
		Seen: fmt.Sprintf("%d upgrades in %.1f s (%d spoke version 1, %d version 2), %d requests (%.0f a second): %d failed, %d reset, %d wrong",
			upgrades, took.Seconds(), spoken[1], spoken[2], sum.Requests, float64(sum.Requests)/took.Seconds(), sum.Failed, sum.Reset, sum.Wrong),
	}
	t.Log(r)
	wantNoneLost(t, s, sum)
}

// upgradeTo has the program take over, and fails unless that was in the version.
func upgradeTo(t *testing.T, s *scene.Scene, program string, version int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	check(t, s.UpgradeTo(ctx, program))
	if says := fmt.Sprintf(`"handover_version":%d`, version); !strings.Contains(string(s.Agent.Log.Whole()), says) {
		t.Fatalf("not handed over in version %d\n%s", version, s.Agent.LastWords())
	}
}

// wantNoneLost fails unless every request brought its own token, and Entra was
// asked once for each pod's.
func wantNoneLost(t *testing.T, s *scene.Scene, sum load.Tally) {
	t.Helper()
	for _, note := range sum.Notes {
		t.Error(note)
	}
	if sum.Requests == 0 || sum.Closing == 0 {
		t.Error("no load, or no client with a connection that was to end")
	}
	if n := issued(t, s); n != pods {
		t.Errorf("Entra issued %d tokens, want %d: one for each pod", n, pods)
	}
	if t.Failed() {
		t.Log(s.Agent.LastWords())
	}
}

// A successor that is killed before it has said that it has everything leaves
// all to the old agent, whichever step it was killed at.
func TestSuccessorKilledAtEachStep(t *testing.T) {
	next := build(t, "momentary", changes.Momentary)
	s, all := open(t)
	end := begin(t, all)
	awaitIssued(t, s, pods)
	steps := []string{changes.Asked, "lock", "socket", "listener", "token", "whole"}
	for _, step := range steps {
		at(t, step, "kill")
		killed, err := s.StartBesideAs(next)
		check(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		check(t, killed.WaitEnd(ctx))
		at(t, "", "")
		upgradeTo(t, s, next, map[bool]int{true: 1, false: 2}[step == changes.Asked])
		cancel()
	}
	sum := end()
	t.Log(row.Row{
		Fault:    "the successor is killed at a step, then another takes over: " + strings.Join(steps, ", "),
		Expected: "0 failed, 0 reset, 0 wrong",
		Seen:     fmt.Sprintf("%d requests: %d failed, %d reset, %d wrong", sum.Requests, sum.Failed, sum.Reset, sum.Wrong),
	})
	wantNoneLost(t, s, sum)
}
