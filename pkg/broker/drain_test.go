package broker

import (
	"context"
	"testing"
)

// A client that keeps its connection is informed by an answer that it ends, and
// never finds it closed in place of one.
func TestClientsAreAskedToLeaveBeforeTheirConnectionsEnd(t *testing.T) {
	r := newRig(t)
	kept := r.dial()
	if got, h := kept.send(get(tokenTarget)); got.Status != 200 || h.Get("Connection") != "" {
		t.Fatalf("before: %d, Connection %q", got.Status, h.Get("Connection"))
	}
	r.server.Drain()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if r.server.WaitIdle(over) {
		t.Error("idle with a connection open, and its client was not asked to leave")
	}
	for _, c := range []*client{kept, r.dial()} {
		if got, h := c.send(get(tokenTarget)); got.Status != 200 || h.Get("Connection") != "close" {
			t.Errorf("leaving: %d, Connection %q, want 200 and close", got.Status, h.Get("Connection"))
		}
		c.ended()
	}
	idle := make(chan bool)
	go func() { idle <- r.server.WaitIdle(t.Context()) }()
	for {
		select {
		case <-idle:
			return
		default:
			r.clock.Step(waitTick)
		}
	}
}
