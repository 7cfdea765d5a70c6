package broker

import (
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// Azure limits each VM to 5 requests a second to its IMDS.
const (
	windowSize = 5
	windowTime = time.Second
)

// window lets windowSize requests through in any windowTime. A token bucket
// of that size would let twice as many through after a rest.
type window struct {
	clock clock.PassiveClock
	mu    sync.Mutex
	taken [windowSize]time.Time // the last ones, as a ring
	next  int                   // the oldest of them
}

func newWindow(c clock.PassiveClock) *window { return &window{clock: c} }

// take reports whether one more request may go out now, and counts it if so.
func (w *window) take() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.clock.Now()
	if oldest := w.taken[w.next]; !oldest.IsZero() && now.Sub(oldest) < windowTime {
		return false
	}
	w.taken[w.next] = now
	w.next = (w.next + 1) % windowSize
	return true
}
