package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/metricsserver"
)

// portInterval is how often a port is tried that others have.
const portInterval = 2 * time.Second

// serveMetrics serves /metrics, /healthz and /readyz from when this agent may
// have the listener, until that is closed, ctx ends or a successor serves
// them.
func (a *agent) serveMetrics(ctx context.Context) error {
	if !waitFor(ctx, a.tookOver) {
		return nil
	}
	listener, err := a.awaitMetrics(ctx)
	if listener == nil {
		return err
	}
	server, listener := metricsserver.New(listener, a.metricsHandler(), slog.NewLogLogger(a.log.Handler(), slog.LevelDebug))
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	go func() {
		if waitFor(ctx, a.retired) {
			_ = server.Shutdown(ctx) // answers what it was asked
		}
	}()
	err = server.Serve(listener)
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// metricsHandler returns the handler of what is served there.
func (a *agent) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	metrics := metricsserver.Scrapes(promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{}))
	if a.options.metricsAuth {
		metrics = a.scrapers.Handler(metrics)
	}
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := a.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// openMetrics opens the listener. That others have its port is no error: pods
// can be served without it, and must not lose their agent to whoever binds it.
func (a *agent) openMetrics(ctx context.Context) error {
	listen := net.ListenConfig{}
	l, err := listen.Listen(ctx, "tcp", a.options.metricsAddress)
	switch {
	case err == nil:
		a.metrics.Store(&l)
	case errors.Is(err, unix.EADDRINUSE):
		err = nil
	}
	return err
}

// awaitMetrics returns the listener once its port could be had; nil if this
// agent ends, or another serves, before.
func (a *agent) awaitMetrics(ctx context.Context) (net.Listener, error) {
	tick := time.NewTicker(portInterval)
	defer tick.Stop()
	for logged := false; ; logged = true {
		if l := a.metrics.Load(); l != nil {
			return *l, nil
		}
		if !logged {
			a.log.Error("another has the metrics' port; they are not served until it is free",
				"listener", a.options.metricsAddress, "fix", "end who listens there (ss -ltnp), or set --metrics-address")
		}
		select {
		case <-tick.C:
		case <-a.retired:
			return nil, nil
		case <-ctx.Done():
			return nil, nil
		}
		if err := a.openMetrics(ctx); err != nil {
			return nil, err
		}
	}
}

// closeMetrics closes the listener, if there is one.
func (a *agent) closeMetrics() error {
	if l := a.metrics.Load(); l != nil {
		return (*l).Close()
	}
	return nil
}

// tellReady makes a metric of what /readyz says.
func (a *agent) tellReady() {
	a.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sidestep_ready",
		Help: "1 while the agent serves all that it should, 0 while it does not; agent status says what is missing.",
	}, func() float64 {
		if a.ready() != nil {
			return 0
		}
		return 1
	}))
}
