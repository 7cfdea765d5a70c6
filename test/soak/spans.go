package main

import "time"

// span is a stretch of time; one that has no end goes on.
type span struct{ from, to time.Time }

// spans are in the order of time; only the last may go on.
type spans []span

func (s *spans) begin() { *s = append(*s, span{from: time.Now()}) }

func (s spans) end() { s[len(s)-1].to = time.Now() }

// meet reports whether some of it lies between the two times.
func (s spans) meet(from, to time.Time) bool {
	for _, one := range s {
		if !to.Before(one.from) && (one.to.IsZero() || !from.After(one.to)) {
			return true
		}
	}
	return false
}
