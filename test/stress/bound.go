package main

import "math"

// bound returns the upper 95 % bound of the rate at which a suite fails that
// failed so often in so many rounds: with a higher rate so few failures would be
// seen in less than one of twenty such runs (Clopper and Pearson's one-sided
// bound, for no failure about 3/rounds).
func bound(failures, rounds int) float64 {
	if failures >= rounds {
		return 1
	}
	low, high := 0.0, 1.0
	for range 60 {
		rate := (low + high) / 2
		if atMost(failures, rounds, rate) > 0.05 {
			low = rate
		} else {
			high = rate
		}
	}
	return high
}

// atMost returns the probability of so many failures, or fewer.
func atMost(failures, rounds int, rate float64) (p float64) {
	for k := range failures + 1 {
		p += math.Exp(choose(rounds, k) + float64(k)*math.Log(rate) + float64(rounds-k)*math.Log1p(-rate))
	}
	return p
}

// choose returns the logarithm of the binomial coefficient.
func choose(n, k int) float64 {
	factorial := func(n int) float64 {
		l, _ := math.Lgamma(float64(n + 1))
		return l
	}
	return factorial(n) - factorial(k) - factorial(n-k)
}
