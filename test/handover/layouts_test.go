package handover

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/test/faults/row"
	"github.com/sidestep-agent/sidestep/test/handover/changes"
	"github.com/sidestep-agent/sidestep/test/overlay"
	"github.com/sidestep-agent/sidestep/test/scene"
)

// An upgrade to an agent whose maps have another layout loses nothing, and
// neither does the way back, also where the hand-over has one version more.
func TestRolledBetweenLayouts(t *testing.T) {
	for _, tc := range []struct {
		what, build string
		edits       []overlay.Edit
	}{
		{"layouts of the maps", "layout", changes.Layout},
		{"layouts and versions of the hand-over", "layout-moments", changes.LayoutMoments},
	} {
		t.Run(tc.what, func(t *testing.T) {
			next := build(t, tc.build, tc.edits)
			s, all := open(t)
			first := *program
			ended := begin(t, all)
			awaitIssued(t, s, pods)
			started, upgrades := time.Now(), 0
			for roll := range *layoutRolls {
				steps := []string{next, first}
				if roll == 0 {
					steps = []string{next, next, first, first} // and between two of one layout
				}
				for _, to := range steps {
					upgradeLayout(t, s, to, map[bool]uint32{true: 3, false: 2}[to == next])
					upgrades++
				}
			}
			sum := ended()
			took := time.Since(started)
			t.Log(row.Row{
				Fault:    fmt.Sprintf("%s, rolled 1 -> 2 -> 1, %d times", tc.what, *layoutRolls),
				Expected: "0 failed, 0 reset, 0 wrong",
				Seen: fmt.Sprintf("%d upgrades in %.1f s, %d requests (%.0f a second): %d failed, %d reset, %d wrong",
					upgrades, took.Seconds(), sum.Requests, float64(sum.Requests)/took.Seconds(), sum.Failed, sum.Reset, sum.Wrong),
			})
			wantNoneLost(t, s, sum)
			if n := nodeTokens(t, s); n != 0 {
				t.Errorf("the node's own metadata service was asked for %d tokens", n)
			}
		})
	}
}

// upgradeLayout has the program take over, and fails unless the layout is the
// active one when it is ready.
func upgradeLayout(t *testing.T, s *scene.Scene, program string, layout uint32) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.UpgradeTo(ctx, program); err != nil {
		t.Fatalf("%v\n%s", err, s.Agent.LastWords())
	}
	if got := activeLayout(t, s); got != layout {
		t.Fatalf("layout %d is active, want %d\n%s", got, layout, s.Agent.LastWords())
	}
}

// activeLayout returns which layout the pins call the active one.
func activeLayout(t *testing.T, s *scene.Scene) (layout uint32) {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(s.Node.BPFFS, intercept.PinDirectory, "sidestep_layout"), nil)
	check(t, err)
	defer m.Close()
	check(t, m.Lookup(uint32(0), &layout))
	return layout
}

// A successor of another layout that is killed while it replaces the programs,
// whichever of them it was at, leaves no steered pod a way to the node's
// identity, and the next agent serves: one of its layout, or of the former.
func TestKilledBetweenLayouts(t *testing.T) {
	other := build(t, "layout-moments", changes.LayoutMoments)
	s, all := open(t)
	first := *program
	layouts := map[string]uint32{first: 2, other: 3}
	seen := map[uint32]int{}
	for i, step := range changes.LayoutSteps {
		at(t, step, "kill")
		killed, err := s.StartBesideAs(other)
		check(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		check(t, killed.WaitEnd(ctx))
		check(t, s.Agent.WaitEnd(ctx)) // its successor has ended
		if served(t, all[i%pods]) {
			t.Errorf("killed at %s: served without an agent", step)
		}
		at(t, "", "")
		next := []string{first, other}[i%2]
		check(t, s.RestartAs(ctx, next))
		if !served(t, all[i%pods]) {
			t.Errorf("killed at %s: not served by the next agent, of layout %d\n%s", step, layouts[next], s.Agent.LastWords())
		}
		if got := activeLayout(t, s); got != layouts[next] {
			t.Errorf("killed at %s: layout %d is active, want %d", step, got, layouts[next])
		}
		seen[layouts[next]]++
		if next == other { // the next step is one from the former layout, too
			upgradeLayout(t, s, first, 2)
		}
		cancel()
	}
	n := nodeTokens(t, s)
	t.Log(row.Row{
		Fault:    "the successor is killed at a step of a change of layouts: " + strings.Join(changes.LayoutSteps, ", "),
		Expected: "the next agent serves; 0 tokens of the node",
		Seen:     fmt.Sprintf("served by the next agent, of the old layout %d times, of the new %d times; %d tokens of the node", seen[2], seen[3], n),
	})
	if n != 0 {
		t.Errorf("the node's own metadata service was asked for %d tokens", n)
	}
}

// An old agent that is slow to close its listeners, once all is its successor's,
// accepts connections that programs of another layout have steered.
func TestSlowHolderBetweenLayouts(t *testing.T) {
	slow, next := build(t, "momentary", changes.Momentary), build(t, "layout", changes.Layout)
	s, all := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	upgradeLayout(t, s, slow, 2)
	end := begin(t, all)
	awaitIssued(t, s, pods)
	at(t, changes.Given, "pause")
	successor, err := s.StartBesideAs(next)
	check(t, err)
	check(t, successor.WaitReady(ctx))
	if got := activeLayout(t, s); got != 3 {
		t.Errorf("layout %d is active, want 3", got)
	}
	time.Sleep(time.Second) // of load on both
	at(t, "", "")
	check(t, s.Agent.End(ctx))
	s.Agent = successor
	sum := end()
	t.Log(row.Row{
		Fault:    "the old agent accepts for a second more, with programs of another layout active",
		Expected: "0 failed, 0 reset, 0 wrong",
		Seen:     fmt.Sprintf("%d requests: %d failed, %d reset, %d wrong", sum.Requests, sum.Failed, sum.Reset, sum.Wrong),
	})
	wantNoneLost(t, s, sum)
}
