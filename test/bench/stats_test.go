package main

import (
	"errors"
	"testing"
)

func TestRatioOf(t *testing.T) {
	var side, baseline []float64
	for i := range 100 {
		noise := float64(1 + i%10) // both sides hear it
		side, baseline = append(side, 2*noise), append(baseline, noise)
	}
	side[7] *= 100 // and one hears something alone
	got := ratioOf(side, baseline)
	if got.Median != 2 || got.Low != 2 || got.High != 2 || got.P90 != 2 {
		t.Errorf("%+v, want 2 throughout", got)
	}
	few := ratioOf([]float64{1, 2, 3}, []float64{1, 1, 1})
	if few.Median != 2 || few.Low != 1 || few.High != 3 {
		t.Errorf("of three rounds: %+v, want 2, between 1 and 3", few)
	}
}

func TestPercentiles(t *testing.T) {
	var samples []float64
	for i := range 1000 {
		samples = append(samples, float64(999-i))
	}
	got := percentiles(samples)
	if len(got) != 101 || got[0] != 0 || got[50] != 500 || got[99] != 990 || got[100] != 999 {
		t.Errorf("percentiles 0, 50, 99, 100 of 0–999: %v, %v, %v, %v", got[0], got[50], got[99], got[100])
	}
	if samples[0] != 999 {
		t.Error("the samples were sorted in place")
	}
}

func TestTake(t *testing.T) {
	turns := 0
	side := func(v float64) func() (float64, error) {
		return func() (float64, error) { turns++; return v, nil }
	}
	all, err := take(3, side(1), side(2))
	if err != nil || turns != 8 || len(all[0]) != 3 || all[0][2] != 1 || all[1][0] != 2 {
		t.Errorf("%v, %v after %d turns; want three of each, and one before", all, err, turns)
	}
	broken := errors.New("broken")
	if _, err := take(1, func() (float64, error) { return 0, broken }); !errors.Is(err, broken) {
		t.Errorf("error %v, want the side's", err)
	}
}
