package main

import (
	"math"
	"math/rand/v2"
	"slices"
)

// quantile returns the q-quantile of sorted samples, 0 of none.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// percentiles returns the percentiles 0–100 of samples.
func percentiles(samples []float64) []float64 {
	if len(samples) == 0 {
		return nil
	}
	sorted := slices.Sorted(slices.Values(samples))
	all := make([]float64, 101)
	for i := range all {
		all[i] = quantile(sorted, float64(i)/100)
	}
	return all
}

func median(samples []float64) float64 {
	return quantile(slices.Sorted(slices.Values(samples)), 0.5)
}

// ratio is one side of a comparison by another: the median of the rounds'
// ratios.
type ratio struct {
	Median float64 `json:"median"`
	// Low and High bound the median with 95 % confidence.
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	// Between P10 and P90 lie four fifths of the rounds.
	P10 float64 `json:"p10"`
	P90 float64 `json:"p90"`
}

// ratioOf compares the rounds of two sides.
func ratioOf(side, baseline []float64) ratio {
	all := make([]float64, len(side))
	for i := range all {
		all[i] = side[i] / baseline[i]
	}
	slices.Sort(all)
	n := float64(len(all))
	// As many of the rounds are below the median as heads among n coins.
	off := 0.98 / math.Sqrt(n) // 1.96 standard deviations, of √n/2 each
	return ratio{
		Median: quantile(all, 0.5), P10: quantile(all, 0.1), P90: quantile(all, 0.9),
		Low: quantile(all, max(0.5-off, 0)), High: quantile(all, min(0.5+off, 1)),
	}
}

// take has the sides take turns and returns what each came to in each round. A
// round before the first warms them up.
func take(rounds int, sides ...func() (float64, error)) ([][]float64, error) {
	all := make([][]float64, len(sides))
	for round := range rounds + 1 {
		for _, i := range order(len(sides)) {
			v, err := sides[i]()
			if err != nil {
				return nil, err
			}
			if round > 0 {
				all[i] = append(all[i], v)
			}
		}
	}
	return all, nil
}

// order returns the sides in the order of one round. Chance gives it, so that
// none always comes after the same other and finds what that has left.
func order(sides int) []int { return rand.Perm(sides) }
