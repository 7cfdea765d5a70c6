package broker

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/utils/clock"
)

// hold is how long a caller is kept waiting before it is told to come again:
// every client that we know of waits 35 s for an answer.
const hold = 25 * time.Second

// exchangeTime is what a token request gets where its caller was held before
// it was known.
const exchangeTime = 5 * time.Second

// Limits of the HTTP server. net/http cancels a request's context at the read
// timeout, even with the request read, so that it must exceed hold too.
const (
	readHeaderTimeout = 10 * time.Second
	readTimeout       = hold + 15*time.Second
	writeTimeout      = hold + 20*time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 16 << 10
	drainTimeout      = hold
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
	limits   *podLimits
	relay    *relay
	metrics  *metrics
	http     *http.Server
	listener *connListener

	refusals rate.Sometimes // anyone may dial the node listener and fill the log

	leaving atomic.Bool  // answers say that their connection ends
	open    atomic.Int64 // connections that were accepted and not closed yet

	life    context.Context // ends when draining begins
	endLife context.CancelFunc

	mu       sync.Mutex
	draining bool
	fronts   sync.WaitGroup        // running HandleConns
	fast     map[net.Conn]struct{} // those served by serveFast
}

// New returns a Server that waits for HandleConn and Run. It fails on an
// unusable IMDSEndpoint and if its metrics cannot be registered.
func New(o Options) (*Server, error) {
	relay, err := newRelay(o.IMDSEndpoint, o.Clock, o.Log)
	if err != nil {
		return nil, err
	}
	metrics, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	s := &Server{
		attester: o.Attester,
		tokens:   o.Tokens,
		paths:    o.Paths,
		tenantID: o.TenantID,
		log:      o.Log,
		clock:    o.Clock,
		limits:   newPodLimits(o.Clock),
		relay:    relay,
		metrics:  metrics,
		listener: newConnListener(),
		fast:     map[net.Conn]struct{}{},
		refusals: rate.Sometimes{First: 10, Interval: time.Second},
	}
	s.SetSettings(o.Settings)
	s.life, s.endLife = context.WithCancel(context.Background())
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
			return context.WithValue(ctx, peerKey{}, c.(*peerConn).peer)
		},
		ConnState: noteAnswered,
	}
}

// SetSettings replaces the settings, from the next request on.
func (s *Server) SetSettings(settings Settings) { s.settings.Store(&settings) }

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
	s.beginDraining()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := s.http.Shutdown(drain); err != nil {
		_ = s.http.Close()
		return fmt.Errorf("drain requests: %w", err)
	}
	return s.awaitFronts(drain)
}

// enter counts a HandleConn in; false once draining has begun.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.fronts.Add(1)
	s.open.Add(1)
	return true
}

func (s *Server) beginDraining() {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	s.endLife()
	s.wakeFast()
}

func (s *Server) awaitFronts(ctx context.Context) error {
	ended := make(chan struct{})
	go func() {
		s.fronts.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain connections: %w", ctx.Err())
	}
}
