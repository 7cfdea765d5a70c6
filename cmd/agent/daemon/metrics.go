package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/metricsserver"
)

// portInterval is how often a port is tried that others have.
const portInterval = 2 * time.Second

// endpoint is where /metrics, /healthz and /readyz are served.
type endpoint struct {
	address  string
	auth     bool // the metrics ask for a token
	scrapers *metricsserver.Authorizer
	registry *prometheus.Registry
	ready    func() error // nil when pods are served, else what is missing
	log      *slog.Logger
	retired  <-chan struct{} // closed once a successor serves
	listener atomic.Pointer[net.Listener]
}

// serve serves them until the listener is closed, ctx ends or a successor does
// so. It is called once this agent may have the listener.
func (e *endpoint) serve(ctx context.Context) error {
	listener, err := e.await(ctx)
	if listener == nil {
		return err
	}
	server, listener := metricsserver.New(listener, e.handler(), slog.NewLogLogger(e.log.Handler(), slog.LevelDebug))
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	go func() {
		if waitFor(ctx, e.retired) {
			_ = server.Shutdown(ctx) // answers what it was asked
		}
	}()
	err = server.Serve(listener)
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// handler returns the handler of what is served there.
func (e *endpoint) handler() http.Handler {
	mux := http.NewServeMux()
	metrics := metricsserver.Scrapes(promhttp.HandlerFor(e.registry, promhttp.HandlerOpts{}))
	if e.auth {
		metrics = e.scrapers.Handler(metrics)
	}
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := e.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// open opens the listener. That others have its port is no error: pods
// can be served without it, and must not lose their agent to whoever binds it.
func (e *endpoint) open(ctx context.Context) error {
	listen := net.ListenConfig{}
	l, err := listen.Listen(ctx, "tcp", e.address)
	switch {
	case err == nil:
		e.listener.Store(&l)
	case errors.Is(err, unix.EADDRINUSE):
		err = nil
	}
	return err
}

// await returns the listener once its port could be had; nil if this
// agent ends, or another serves, before.
func (e *endpoint) await(ctx context.Context) (net.Listener, error) {
	tick := time.NewTicker(portInterval)
	defer tick.Stop()
	for logged := false; ; logged = true {
		if l := e.listener.Load(); l != nil {
			return *l, nil
		}
		if !logged {
			e.log.Error("another has the metrics' port; they are not served until it is free",
				"listener", e.address, "fix", "end who listens there (ss -ltnp), or set --metrics-address")
		}
		select {
		case <-tick.C:
		case <-e.retired:
			return nil, nil
		case <-ctx.Done():
			return nil, nil
		}
		if err := e.open(ctx); err != nil {
			return nil, err
		}
	}
}

// close closes the listener, if there is one.
func (e *endpoint) close() error {
	if l := e.listener.Load(); l != nil {
		return (*l).Close()
	}
	return nil
}

// register makes a metric of what /readyz says.
func (e *endpoint) register() {
	e.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sidestep_ready",
		Help: "1 while the agent serves all that it should, 0 while it does not; agent status says what is missing.",
	}, func() float64 {
		if e.ready() != nil {
			return 0
		}
		return 1
	}))
}
