package main

import (
	"testing"
	"time"
)

func TestSpansMeet(t *testing.T) {
	at := func(second int64) time.Time { return time.Unix(second, 0) }
	s := spans{{at(10), at(20)}, {at(30), time.Time{}}}
	for _, c := range []struct {
		from, to int64
		want     bool
	}{
		{1, 9, false}, {9, 11, true}, {12, 13, true}, {19, 25, true}, {5, 25, true},
		{21, 29, false}, {21, 31, true}, {40, 50, true},
	} {
		if got := s.meet(at(c.from), at(c.to)); got != c.want {
			t.Errorf("from %d to %d: %t, want %t", c.from, c.to, got, c.want)
		}
	}
}
