package bounded

import (
	"testing"
	"time"
)

func TestForgetsTheDeadThenTheOldest(t *testing.T) {
	now := time.Now()
	b := New[string](3, func(until time.Time, now time.Time) bool { return !now.Before(until) })
	b.Put("a", now.Add(time.Hour), now)
	b.Put("dead", now.Add(time.Second), now)
	b.Put("b", now.Add(time.Hour), now)
	b.Put("a", now.Add(time.Hour), now) // now the youngest
	now = now.Add(time.Minute)
	if _, ok := b.Get("dead", now); ok {
		t.Error("a dead value was returned")
	}
	b.Put("c", now.Add(time.Hour), now)
	b.Put("d", now.Add(time.Hour), now)
	for k, want := range map[string]bool{"a": true, "b": false, "c": true, "d": true, "dead": false} {
		if _, ok := b.Get(k, now); ok != want {
			t.Errorf("%s kept: %v, want %v", k, ok, want)
		}
	}
}
