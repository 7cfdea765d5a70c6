package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/test/load"
)

// Nothing is excused but the results of a dead agent, and new pods' waiting for
// Entra; another's token never is.
func TestWhatIsExcused(t *testing.T) {
	at := func(second int64) time.Time { return time.Unix(second, 0) }
	within := func(from int64, f load.Failure) load.Tally {
		f.Alive, f.At = at(from), at(from+2)
		return load.Tally{Requests: 1, Failed: 1, Failures: []load.Failure{f}}
	}
	const dead, broken, calm = 10, 20, 30
	again := load.Failure{Status: http.StatusTooManyRequests}
	for name, c := range map[string]struct {
		of   clients
		t    load.Tally
		want counts
	}{
		"right":                               {steered, load.Tally{Requests: 3}, counts{Requests: 3}},
		"broken off by a death":               {steered, within(dead, load.Failure{Reset: true}), counts{Requests: 1, Refused: 1}},
		"refused while dead":                  {coming, within(dead, load.Failure{}), counts{Requests: 1, Refused: 1}},
		"a passing pod, while dead":           {passing, within(dead, load.Failure{}), counts{Requests: 1, Failed: 1}},
		"another's token, while dead":         {steered, within(dead, load.Failure{Client: "x"}), counts{Requests: 1, Wrong: 1}},
		"reset":                               {steered, within(calm, load.Failure{Reset: true}), counts{Requests: 1, Reset: 1}},
		"refused":                             {coming, within(calm, load.Failure{}), counts{Requests: 1, Failed: 1}},
		"a new pod, while Entra fails":        {coming, within(broken, again), counts{Requests: 1, Held: 1}},
		"a new pod, for no reason":            {coming, within(calm, again), counts{Requests: 1, Failed: 1}},
		"one with a token, while Entra fails": {steered, within(broken, again), counts{Requests: 1, Failed: 1}},
		"more than were noted":                {steered, load.Tally{Requests: 9, Failed: 2, Reset: 1}, counts{Requests: 9, Failed: 3}},
	} {
		t.Run(name, func(t *testing.T) {
			r := record{dead: spans{{at(dead), at(dead + 3)}}, broken: spans{{at(broken), at(broken + 3)}}}
			excused := r.add(c.of, c.t)
			if diff := cmp.Diff(c.want, r.counts); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if want := c.want.Failed+c.want.Reset+c.want.Wrong == 0; excused != want {
				t.Errorf("excused: %t, want %t", excused, want)
			}
		})
	}
}
