package delivery

import "sync"

// signal tells all who wait that something has changed. Its zero value is ready
// to use.
type signal struct {
	mu      sync.Mutex
	waiters chan struct{}
}

// next returns a channel that is closed with the next change. Who waits for a
// state takes it before looking at that.
func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiters == nil {
		s.waiters = make(chan struct{})
	}
	return s.waiters
}

// tell says that something has changed.
func (s *signal) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiters != nil {
		close(s.waiters)
		s.waiters = nil
	}
}
