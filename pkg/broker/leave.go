package broker

import (
	"context"
	"time"
)

// quietTick is how often Quiet looks for connections.
const quietTick = 50 * time.Millisecond

// Leave has every answer from now on tell its client that the connection ends
// with it. Requests are answered as before: a connection that is closed only
// after its client was told so fails no request.
func (s *Server) Leave() { s.leaving.Store(true) }

// Quiet waits until no connection is open, or ctx ends; it reports whether
// none is.
func (s *Server) Quiet(ctx context.Context) bool {
	tick := s.clock.NewTicker(quietTick)
	defer tick.Stop()
	for s.open.Load() != 0 {
		select {
		case <-tick.C():
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// exit counts a HandleConn out.
func (s *Server) exit() {
	s.open.Add(-1)
	s.fronts.Done()
}
