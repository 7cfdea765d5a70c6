package broker

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Bounds of a spliced connection. Its pod's verdict is asked for every tick,
// so that a pod that stops passing does not keep the node's IMDS.
const (
	spliceTick     = time.Second
	spliceIdle     = 2 * time.Minute
	spliceLifetime = 10 * time.Minute
	dialTimeout    = 2 * time.Second
)

// passOn carries bytes between the connection and the node's IMDS until both
// ends are done or the pod passes no more, and closes it. IMDS is dialled from
// the pod's own network namespace, so that what the platform drops of the pod's
// packets there (the IMDS restriction of AKS, a NetworkPolicy) is dropped here
// too. An error says that IMDS was not reached; the connection is then
// untouched.
func (s *Server) passOn(c net.Conn, caller workload.Caller) error {
	ctx, cancel := context.WithTimeout(s.life, dialTimeout)
	defer cancel()
	up, err := s.paths.Dial(ctx, caller, s.relay.address)
	if err != nil {
		s.log.Debug("node's IMDS not reached", "pod_uid", caller.PodUID, "err", err)
		return fmt.Errorf("dial IMDS: %w", err)
	}
	s.log.Debug("connection passed on", "pod_uid", caller.PodUID)
	var moved atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var both sync.WaitGroup
		both.Go(func() { pump(up, c, &moved) })
		both.Go(func() { pump(c, up, &moved) })
		both.Wait()
	}()
	s.watch(caller, &moved, ended)
	_ = c.Close()
	_ = up.Close()
	<-ended
	return nil
}

// watch returns when the splice has ended or has to.
func (s *Server) watch(caller workload.Caller, moved *atomic.Int64, ended <-chan struct{}) {
	ticker := s.clock.NewTicker(spliceTick)
	defer ticker.Stop()
	begun := s.clock.Now()
	active, before := begun, moved.Load()
	for {
		select {
		case <-ended:
			return
		case <-ticker.C():
		}
		if !s.passes(caller) || s.clock.Since(begun) >= spliceLifetime {
			return
		}
		if now := moved.Load(); now != before {
			active, before = s.clock.Now(), now
		} else if s.life.Err() != nil || s.clock.Since(active) >= spliceIdle {
			return
		}
	}
}

// pump copies one direction to its end and passes the end on, so that the
// other direction can still finish. After an error neither can.
func pump(dst, src net.Conn, moved *atomic.Int64) {
	_, err := io.Copy(counter{dst, moved}, src)
	half, ok := dst.(interface{ CloseWrite() error })
	if err != nil || !ok {
		_ = src.Close()
		_ = dst.Close()
		return
	}
	_ = half.CloseWrite() // fails only where the other end has gone already
}

// counter adds up what is written through it.
type counter struct {
	io.Writer
	moved *atomic.Int64
}

// Write writes p and counts it.
func (c counter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.moved.Add(int64(n))
	return n, err
}
