// Package clocks measures two kinds of time: how much of it has passed, which
// cannot be changed, and the date, which can be set in either direction while
// the agent runs.
package clocks

import (
	"time"

	"k8s.io/utils/clock"
)

// Clocks are a clock that measures, and one that tells the date.
type Clocks struct {
	Steady clock.WithTicker
	Date   clock.PassiveClock
	start  Instant
}

// Instant is one moment on both clocks.
type Instant struct {
	// Steady may be compared with other steady readings alone. The real
	// clock's bear Go's monotonic reading, which a step of the clock leaves
	// alone.
	Steady time.Time
	Date   time.Time // bears no monotonic reading, so that it is the date that is compared
}

// New returns the clocks, which were started now.
func New(steady clock.WithTicker, date clock.PassiveClock) Clocks {
	c := Clocks{Steady: steady, Date: date}
	c.start = c.Now()
	return c
}

// Now returns the present moment.
func (c Clocks) Now() Instant {
	return Instant{Steady: c.Steady.Now(), Date: c.Date.Now().Round(0)}
}

// EarliestDate returns the earlier of two dates that it may be now: the
// clock's, and what the clock would say had it not been set since the start.
// What is past by this date is past for certain.
func (c Clocks) EarliestDate() time.Time {
	now := c.Now()
	unset := c.start.Date.Add(now.Steady.Sub(c.start.Steady))
	if unset.Before(now.Date) {
		return unset
	}
	return now.Date
}

// DateOf returns the date of a steady reading, by the date of n.
func (n Instant) DateOf(steady time.Time) time.Time {
	return n.Date.Add(steady.Sub(n.Steady))
}
