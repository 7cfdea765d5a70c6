package broker

import (
	"context"
	"testing"
)

// A client that keeps its connection is told with an answer that it ends, and
// never finds it closed in place of one.
func TestClientsAreToldBeforeTheirConnectionsEnd(t *testing.T) {
	r := newRig(t)
	kept := r.dial()
	if got, h := kept.send(get(tokenTarget)); got.Status != 200 || h.Get("Connection") != "" {
		t.Fatalf("before: %d, Connection %q", got.Status, h.Get("Connection"))
	}
	r.server.Drain()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if r.server.WaitIdle(over) {
		t.Error("quiet with a connection open whose client was not told")
	}
	for _, c := range []*client{kept, r.dial()} {
		if got, h := c.send(get(tokenTarget)); got.Status != 200 || h.Get("Connection") != "close" {
			t.Errorf("leaving: %d, Connection %q, want 200 and close", got.Status, h.Get("Connection"))
		}
		c.ended()
	}
	quiet := make(chan bool)
	go func() { quiet <- r.server.WaitIdle(t.Context()) }()
	for {
		select {
		case <-quiet:
			return
		default:
			r.clock.Step(waitTick)
		}
	}
}
