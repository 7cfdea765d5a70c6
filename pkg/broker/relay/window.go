package relay

import (
	"time"

	"k8s.io/utils/clock"
)

// windowTime is the time in which IMDS counts requests.
const windowTime = time.Second

// window lets exchanges begin so that no more than size of their requests can
// reach IMDS in any windowTime, however long each is on its way: a place that
// is taken is free again windowTime after its request has left. It is not safe
// for concurrent use.
type window struct {
	clock clock.PassiveClock
	size  int
	under int         // requests on their way
	left  []time.Time // when those left that did so lately, the oldest first
}

// take reports whether one more exchange may begin now, and counts it in if so.
func (w *window) take() bool {
	for len(w.left) > 0 && w.clock.Since(w.left[0]) >= windowTime {
		w.left = w.left[1:]
	}
	if w.under+len(w.left) >= w.size {
		return false
	}
	w.under++
	return true
}

// giveBack undoes a take whose exchange did not begin.
func (w *window) giveBack() { w.under-- }

// release counts out a request that has left.
func (w *window) release() {
	w.under--
	w.left = append(w.left, w.clock.Now())
}

// wait returns how long no exchange can begin for certain, after a take that
// failed.
func (w *window) wait() time.Duration {
	if len(w.left) == 0 {
		return windowTime
	}
	return max(windowTime-w.clock.Since(w.left[0]), time.Millisecond)
}
