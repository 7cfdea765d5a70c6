package main

import (
	"context"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/connlimit"
)

// Limits of the server of /metrics, /healthz and /readyz, which whoever reaches
// the node's address may dial. A scrape takes milliseconds and comes twice a
// minute; 128 connections take some 3 MiB.
var metricsBounds = connlimit.Bounds{Total: 128, Reading: 8, ReadingTotal: 64, Held: 1, HeldTotal: 1}

const (
	metricsPerClient   = 16 // connections of one address
	metricsAtOnce      = 4  // scrapes; more are answered 503
	metricsHeaderTime  = 5 * time.Second
	metricsReadTime    = 10 * time.Second
	metricsWriteTime   = 30 * time.Second
	metricsIdleTime    = 90 * time.Second // longer than a scrape's interval
	metricsHeaderBytes = 8 << 10
)

// newMetricsServer returns a server of the handler and the listener to serve,
// between them within the limits. Closing the listener that is returned closes
// the one that was given.
func newMetricsServer(l net.Listener, handler http.Handler, errors *log.Logger) (*http.Server, net.Listener) {
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c := r.Context().Value(metricsConnKey{}).(*metricsConn)
			if !c.slot.Set(connlimit.Serving, time.Now()) {
				panic(http.ErrAbortHandler)
			}
			handler.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: metricsHeaderTime, ReadTimeout: metricsReadTime, WriteTimeout: metricsWriteTime,
		IdleTimeout: metricsIdleTime, MaxHeaderBytes: metricsHeaderBytes, ErrorLog: errors,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, metricsConnKey{}, c)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			switch state {
			case http.StateActive:
				c.(*metricsConn).slot.Set(connlimit.Reading, time.Now())
			case http.StateIdle:
				c.(*metricsConn).slot.Set(connlimit.Idle, time.Now())
			}
		},
	}
	return server, &metricsListener{Listener: l, table: connlimit.New(metricsBounds)}
}

// metricsConnKey is the context key of a request's *metricsConn.
type metricsConnKey struct{}

// metricsListener accepts connections within metricsBounds: beyond them the
// longest idle one of the address with the most is closed.
type metricsListener struct {
	net.Listener
	table *connlimit.Table
}

// Accept implements net.Listener.
func (l *metricsListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		m := &metricsConn{Conn: c}
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		if m.slot = l.table.Add(host, connlimit.Idle, metricsPerClient, time.Now(), m); m.slot != nil {
			return m, nil
		}
		_ = c.Close()
	}
}

// metricsConn is a connection of metricsListener's.
type metricsConn struct {
	net.Conn
	slot *connlimit.Conn
}

// Evict implements connlimit.Evictee.
func (c *metricsConn) Evict(connlimit.State) { _ = c.Conn.Close() }

// Close closes the connection and counts it out.
func (c *metricsConn) Close() error {
	c.slot.Remove()
	return c.Conn.Close()
}
