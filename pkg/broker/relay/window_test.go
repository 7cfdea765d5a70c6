package relay

import (
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"
)

func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const windowSize = 5
		w := window{clock: clock.RealClock{}, size: windowSize}
		for i := range windowSize {
			if !w.take() {
				t.Fatalf("place %d is not free", i)
			}
		}
		time.Sleep(time.Hour)
		if w.take() || w.wait() != windowTime {
			t.Errorf("a place whose exchange is under way is free, or will be in %v", w.wait())
		}
		w.release()
		time.Sleep(windowTime / 2)
		if w.take() || w.wait() != windowTime/2 {
			t.Errorf("a place is free half a second after its exchange, or will be in %v", w.wait())
		}
		time.Sleep(windowTime / 2)
		if !w.take() || w.take() {
			t.Error("a second after its exchange, not that one place is free")
		}
	})
}
