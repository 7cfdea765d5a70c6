package broker

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/broker/relay"
	"github.com/sidestep-agent/sidestep/pkg/connlimit"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Server is the broker. Its methods may be called from many goroutines.
type Server struct {
	attester Attester
	tokens   Tokens
	paths    Paths
	tenantID string
	log      *slog.Logger
	clock    clock.WithTicker

	settings atomic.Pointer[Settings]
	usages   *usages
	conns    *connlimit.Table
	turning  chan struct{} // has a value for each connection that is turned away now
	relay    nodeIMDS
	metrics  *metrics
	http     *http.Server
	listener *connListener

	lines     *logBudget // of requests
	connLines *logBudget // of connections

	shutdown
}

// shutdown is what the end of a Server consists of: answers say that their
// connection ends (Drain), then no connection is begun, and those that wait
// for a request or for their caller end (Run's context).
type shutdown struct {
	draining atomic.Bool
	life     context.Context // ends when no connection is begun any more
	end      context.CancelFunc

	mu       sync.Mutex
	ended    bool           // as life, under mu
	handling sync.WaitGroup // running HandleConns
}

// nodeIMDS is the node's own IMDS: what is relayed goes through the Relay,
// connections of pods that pass are made to its address.
type nodeIMDS struct {
	*relay.Relay
	address string
}

// New returns a Server that waits for HandleConn and Run. It fails on an
// unusable IMDSEndpoint and if its metrics cannot be registered.
func New(o Options) (*Server, error) {
	s := &Server{
		attester:  o.Attester,
		tokens:    o.Tokens,
		paths:     o.Paths,
		tenantID:  o.TenantID,
		log:       o.Log,
		clock:     o.Clock,
		usages:    newUsages(o.Clock),
		conns:     connlimit.New(connBounds),
		turning:   make(chan struct{}, turnedAway),
		listener:  newConnListener(),
		lines:     newLogBudget(allLines, allLineInterval),
		connLines: newLogBudget(connLines, connInterval),
	}
	var err error
	s.relay.Relay, err = relay.New(relay.Options{
		Endpoint: o.IMDSEndpoint, Limits: relayLimits, Clock: o.Clock, Log: o.Log, Panicked: s.panicked,
	})
	if err != nil {
		return nil, err
	}
	s.relay.address = s.relay.Address()
	if s.metrics, err = newMetrics(o.Registerer, s.conns); err != nil {
		return nil, err
	}
	s.SetSettings(o.Settings)
	s.life, s.end = context.WithCancel(context.Background())
	s.http = s.newHTTPServer()
	return s, nil
}

func (s *Server) newHTTPServer() *http.Server {
	// HTTP/1.1 alone, as IMDS speaks it: an "Upgrade: h2c" is ignored.
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:                      http.HandlerFunc(s.serve),
		Protocols:                    &protocols,
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            readHeaderTimeout,
		ReadTimeout:                  readTimeout,
		WriteTimeout:                 writeTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeaderBytes,
		ErrorLog:                     slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c.(*httpConn).conn)
		},
		ConnState: noteAnswered,
	}
}

// SetSettings replaces the settings, from the next request on.
func (s *Server) SetSettings(settings Settings) { s.settings.Store(&settings) }

// HandleConn serves one accepted connection and closes it. netnsCookie is the
// SO_NETNS_COOKIE of its listener, 0 for the node listener. It returns when the
// connection has ended or its HTTP is served elsewhere; callers give it a
// goroutine of its own. A panic while it is served ends that connection alone.
func (s *Server) HandleConn(accepted net.Conn, netnsCookie uint64) {
	if !s.enter() {
		_ = accepted.Close()
		return
	}
	defer s.handling.Done()
	c := &conn{Conn: accepted, accepted: accepted, server: s}
	defer c.recovered()
	c.attest(netnsCookie)
	if !c.admit() {
		s.turnAway(c)
		return
	}
	if c.held() && !c.await() {
		_ = c.Close()
		return
	}
	if c.refused == nil && c.verdict == workload.Steer {
		c.guardPath()
	}
	rest, open := c.serveProven()
	if !open {
		_ = c.Close()
		return
	}
	s.listener.deliver(newHTTPConn(c, rest))
}

// turnAway answers the first bytes on a connection that is over a bound with
// 429 and closes it. What is over the bound of those that are answered so is
// closed at once.
func (s *Server) turnAway(c *conn) {
	defer func() { _ = c.Close() }()
	s.metrics.turnedAway.Inc()
	s.log.Debug("too many connections", "pod_uid", c.caller.PodUID)
	select {
	case s.turning <- struct{}{}:
		defer func() { <-s.turning }()
	default:
		return
	}
	_ = c.SetDeadline(time.Now().Add(turnAwayTime)) // sockets have no other clock
	if _, err := c.Read(make([]byte, maxFirst)); err != nil {
		return
	}
	c.sendLast(tryAgain())
}

// Run answers until ctx ends, and then until the requests under way are
// answered, 25 s at most. It returns nil if all of them were. Connections
// that come meanwhile are closed, so their listeners should be closed first.
func (s *Server) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(s.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	s.refuseConns()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := s.http.Shutdown(drain); err != nil {
		_ = s.http.Close()
		return fmt.Errorf("drain requests: %w", err)
	}
	return s.awaitHandlers(drain)
}

// Drain has every answer from now on tell its client that the connection ends
// with it. Requests are answered as before: a connection that is closed only
// after its client has read that fails no request.
func (s *Server) Drain() { s.draining.Store(true) }

// waitTick is how often WaitIdle looks for connections.
const waitTick = 50 * time.Millisecond

// WaitIdle waits until no connection is open, or ctx ends; it reports whether
// none is.
func (s *Server) WaitIdle(ctx context.Context) bool {
	tick := s.clock.NewTicker(waitTick)
	defer tick.Stop()
	for s.conns.Len() != 0 {
		select {
		case <-tick.C():
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// enter counts a HandleConn in; false once no connection is begun any more.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.handling.Add(1)
	return true
}

// refuseConns has no connection begin any more, and ends those that wait for a
// request. One that begins to wait later sees that life has ended.
func (s *Server) refuseConns() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.end()
	s.conns.CloseIdle()
}

func (s *Server) awaitHandlers(ctx context.Context) error {
	ended := make(chan struct{})
	go func() {
		s.handling.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain connections: %w", ctx.Err())
	}
}

// passes reports whether the caller's connections are to be left alone.
func (s *Server) passes(caller workload.Caller) bool {
	_, d, err := s.attester.Current(caller)
	return err == nil && d.Verdict == workload.Pass
}

// panicked counts and logs what recover returned.
func (s *Server) panicked(v any) {
	s.metrics.panics.Inc()
	if skipped, ok := s.connLines.spend(s.clock.Now()); ok {
		s.log.Error("panic; only its connection ends", "panic", fmt.Sprint(v), "stack", string(debug.Stack()), "not_logged", skipped)
	}
}

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
