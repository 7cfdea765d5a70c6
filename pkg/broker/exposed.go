package broker

import (
	"context"
	"net"
	"net/http"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Paths knows what lies between pods and the agent.
type Paths interface {
	// Dial connects from the network namespace of the caller's pod.
	Dial(ctx context.Context, caller workload.Caller, address string) (net.Conn, error)
	// Readable reports whether a neighbour of the caller could read what is
	// sent to it on the connection, and why.
	Readable(c workload.Connection) (readable bool, why string)
	// AwaitListener waits until the caller's next connection goes to a listener
	// in its own pod; false if ctx ends before or there will be none.
	AwaitListener(ctx context.Context, caller workload.Caller) bool
}

// guardPath makes sure that no token goes out on a connection that a neighbour
// of the steered caller can read. Such a caller is asked to try again once its
// own listener is open, which it then reaches; where it will have none it is
// refused with the reason.
func (c *conn) guardPath() {
	s := c.server
	readable, why := s.paths.Readable(c.flow)
	if !readable {
		return
	}
	ctx, cancel := context.WithTimeout(s.life, max(hold-c.waited, 0))
	defer cancel()
	a := tryAgain()
	result := exposedRetry
	if !s.paths.AwaitListener(ctx, c.caller) && ctx.Err() == nil {
		a, result = readableBy(why), exposedRefused
	}
	s.metrics.exposed.WithLabelValues(result).Inc()
	s.log.Debug("connection that neighbours can read", "pod_uid", c.caller.PodUID, "err", why, "status", a.status)
	c.refused = &a
}

// readableBy is the answer where every connection of the pod can be read. It is
// a wrong set-up, to be reported at once.
func readableBy(why string) answer {
	a := invalidRequest("Sidestep sends no token here, since neighbours of this pod could read it: " + why +
		". Use --delivery=pod, or a network plugin that gives each pod a link of its own")
	a.status, a.close = http.StatusBadRequest, true
	return a
}
