package daemon

import (
	"errors"
	"testing"
)

// A pod that is not guarded is reported once, and not while it only starts.
func TestUnguardedPodsAreReportedOnce(t *testing.T) {
	var known unguardedPods
	macvlan, none := errors.New("net1 (macvlan)"), map[string]error{}
	for i, step := range []struct {
		now  map[string]error
		want int
	}{
		{map[string]error{"starts": errors.New("no link yet"), "stays": macvlan}, 0},
		{map[string]error{"stays": macvlan}, 1},
		{map[string]error{"stays": macvlan}, 0},
		{none, 0},
		{map[string]error{"stays": macvlan}, 0},
		{map[string]error{"stays": macvlan}, 1},
	} {
		if news := known.look(step.now); len(news) != step.want || step.want > 0 && news["stays"] == nil {
			t.Errorf("look %d: %v is news, want %d", i, news, step.want)
		}
	}
}
