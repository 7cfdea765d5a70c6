package main

import (
	"math"
	"testing"
)

// The bounds of no failure are 1 - 0.05^(1/n); the others are of a table of
// Clopper and Pearson's.
func TestBound(t *testing.T) {
	for _, tc := range []struct {
		failures, rounds int
		want             float64
	}{
		{0, 0, 1}, {0, 1, 0.95}, {0, 20, 0.1391}, {0, 100, 0.0295}, {0, 200, 0.0149},
		{1, 10, 0.3942}, {5, 100, 0.1023}, {3, 3, 1},
	} {
		if got := bound(tc.failures, tc.rounds); math.Abs(got-tc.want) > 0.0001 {
			t.Errorf("bound(%d of %d) = %.4f, want %.4f", tc.failures, tc.rounds, got, tc.want)
		}
	}
}
