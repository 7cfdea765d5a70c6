package metricsserver

import (
	"log"
	"net"
	"net/http"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/connlimit"
)

// bounds of connections. A scrape takes milliseconds and comes twice a minute;
// 128 connections take some 3 MiB.
//
// No connection is ever counted as Serving, which would keep it from being
// closed for others: a client that does not read its answer would have a place
// for as long as writeTimeout. The one that was used the longest ago, of the
// address with the most, goes first.
var bounds = connlimit.Bounds{Total: 128, Reading: 1, ReadingTotal: 1, Held: 1, HeldTotal: 1}

// perAddress is how many connections one address may have.
const perAddress = 16

const (
	headerTimeout  = 5 * time.Second
	readTimeout    = 10 * time.Second
	writeTimeout   = 30 * time.Second
	idleTimeout    = 90 * time.Second // longer than a scrape's interval
	maxHeaderBytes = 8 << 10
)

// New returns a server of the handler and the listener to serve, between them
// within the bounds. Closing the listener that is returned closes the one that
// was given. errors gets what the server has to say of connections.
func New(l net.Listener, handler http.Handler, errors *log.Logger) (*http.Server, net.Listener) {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes, ErrorLog: errors,
		ConnState: func(c net.Conn, state http.ConnState) {
			if state == http.StateActive || state == http.StateIdle {
				c.(*conn).slot.Set(connlimit.Idle, time.Now())
			}
		},
	}
	return server, &listener{Listener: l, table: connlimit.New(bounds)}
}

// listener accepts connections within the bounds: beyond them one of the address
// with the most is closed.
type listener struct {
	net.Listener
	table *connlimit.Table
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		m := &conn{Conn: c}
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		if m.slot = l.table.Add(host, connlimit.Idle, perAddress, time.Now(), m); m.slot != nil {
			return m, nil
		}
		_ = c.Close()
	}
}

// conn is a connection of listener's.
type conn struct {
	net.Conn
	slot *connlimit.Conn
}

// Evict implements connlimit.Evictee.
func (c *conn) Evict(connlimit.State) { _ = c.Conn.Close() }

// Close closes the connection and counts it out.
func (c *conn) Close() error {
	c.slot.Remove()
	return c.Conn.Close()
}
