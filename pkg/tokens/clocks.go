package tokens

import (
	"time"

	"k8s.io/utils/clock"
)

// clocks tell the engine two kinds of time: how long something took, which no
// one can change, and the date, which can be set in either direction while the
// agent runs.
type clocks struct {
	steady clock.WithTicker
	date   clock.PassiveClock
	start  instant
}

// instant is one moment on both clocks.
type instant struct {
	// steady may be compared with other steady readings alone. The real
	// clock's bear Go's monotonic reading, which a step of the clock leaves
	// alone.
	steady time.Time
	date   time.Time // bears no monotonic reading, so that it is the date that is compared
}

func newClocks(steady clock.WithTicker, date clock.PassiveClock) clocks {
	c := clocks{steady: steady, date: date}
	c.start = c.now()
	return c
}

func (c clocks) now() instant {
	return instant{steady: c.steady.Now(), date: c.date.Now().Round(0)}
}

// earliestDate returns the earlier of two dates that it may be now: the
// clock's, and what the clock would say had it not been set since the start.
// What is past by this date is past for certain.
func (c clocks) earliestDate() time.Time {
	now := c.now()
	unset := c.start.date.Add(now.steady.Sub(c.start.steady))
	if unset.Before(now.date) {
		return unset
	}
	return now.date
}

// dateOf returns the date of a steady reading.
func (n instant) dateOf(steady time.Time) time.Time {
	return n.date.Add(steady.Sub(n.steady))
}
