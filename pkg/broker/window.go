package broker

import (
	"time"

	"k8s.io/utils/clock"
)

// Azure limits each VM to 5 requests a second to its IMDS.
const (
	windowSize = 5
	windowTime = time.Second
)

// window lets exchanges begin so that no more than windowSize of their requests
// can reach IMDS in any windowTime, however long each is on its way: a place
// that is taken is free again windowTime after its exchange has ended. It is
// not safe for concurrent use.
type window struct {
	clock clock.PassiveClock
	under int         // exchanges under way
	ended []time.Time // of those that ended lately, the oldest first
}

// take reports whether one more exchange may begin now, and counts it in if so.
func (w *window) take() bool {
	for len(w.ended) > 0 && w.clock.Since(w.ended[0]) >= windowTime {
		w.ended = w.ended[1:]
	}
	if w.under+len(w.ended) >= windowSize {
		return false
	}
	w.under++
	return true
}

// release counts out an exchange that has ended.
func (w *window) release() {
	w.under--
	w.ended = append(w.ended, w.clock.Now())
}

// wait returns how long no exchange can begin for certain, after a take that
// failed.
func (w *window) wait() time.Duration {
	if len(w.ended) == 0 {
		return windowTime
	}
	return windowTime - w.clock.Since(w.ended[0])
}
