package daemon

import (
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Whom an agent outlives: pods that are steered, in whole or part, and run.
func TestSteeredPodsThatRun(t *testing.T) {
	steer := workload.Decision{Verdict: workload.Steer}
	pods := []workload.Pod{
		{UID: "runs", Decision: steer},
		{UID: "ended", Decision: steer},
		{UID: "passes", Decision: workload.Decision{Verdict: workload.Pass}},
		{UID: "in part", Containers: map[string]workload.Decision{"c": steer}},
	}
	running := []workload.PodCgroup{{UID: "runs"}, {UID: "passes"}, {UID: "in part"}, {UID: "not known"}}
	if n := steeredRunning(pods, running); n != 2 {
		t.Errorf("%d, want 2", n)
	}
	if n := steeredRunning(pods, running[1:2]); n != 0 {
		t.Errorf("%d when only one runs that passes", n)
	}
}
