package broker

import "golang.org/x/time/rate"

// Pace returns a function that waits until a pod's listener may accept its next
// connection. Each listener has one of its own, and calls it before each accept:
// what comes faster waits in the kernel's queue, which is the pod's, and costs
// others nothing.
func (s *Server) Pace() (wait func()) {
	perSecond, burst := s.pace()
	bucket := rate.NewLimiter(perSecond, burst)
	return func() {
		now := s.clock.Now()
		if perSecond, burst := s.pace(); perSecond != bucket.Limit() || burst != bucket.Burst() {
			bucket.SetLimitAt(now, perSecond)
			bucket.SetBurstAt(now, burst)
		}
		if d := bucket.ReserveN(now, 1).DelayFrom(now); d > 0 {
			s.clock.Sleep(d)
		}
	}
}

// pace returns how many connections a pod may begin, a second and at once.
func (s *Server) pace() (perSecond rate.Limit, burst int) {
	limits := s.settings.Load().Limits
	return rate.Limit(beginsPerRequest * limits.RequestsPerSecond), connsPerRequest * limits.Concurrent
}
