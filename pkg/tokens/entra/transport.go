package entra

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

var errNoCertificate = errors.New("no certificate in it")

// NewTransport returns what carries requests to Entra, and trusts the file's
// certificates besides the system's. An empty caFile adds none.
// The error names what is wrong with the file.
func NewTransport(caFile string, log *slog.Logger) (http.RoundTripper, error) {
	if caFile == "" {
		return transportTrusting(nil), nil
	}
	t := &trusting{file: caFile, log: log}
	if err := t.read(); err != nil {
		return nil, err
	}
	return t, nil
}

// trusting is an http.RoundTripper that reads its CA file again when its content
// has changed.
type trusting struct {
	file string
	log  *slog.Logger

	mu      sync.Mutex
	seen    []byte // the content that was tried last; nil: it could not be read
	current *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (t *trusting) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.latest().RoundTrip(req)
}

// latest looks at the file at each request: there are a few in an hour, and
// with nothing to watch there is nothing that could miss a change.
func (t *trusting) latest() *http.Transport {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.read(); err != nil {
		t.log.Warn("the CA file cannot be used, the former certificates stay trusted", "err", err)
	}
	return t.current
}

// read replaces the transport if the file has another content than the last
// time. The error is nil if it has not, good or bad.
func (t *trusting) read() error {
	content, err := os.ReadFile(t.file)
	if err != nil && t.seen == nil && t.current != nil ||
		err == nil && t.seen != nil && bytes.Equal(content, t.seen) {
		return nil
	}
	t.seen = content
	if err != nil {
		t.seen = nil
		return fmt.Errorf("CA file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return fmt.Errorf("the system's CAs: %w", err)
	}
	if !pool.AppendCertsFromPEM(content) {
		return fmt.Errorf("CA file %s: %w", t.file, errNoCertificate)
	}
	if t.current != nil {
		t.current.CloseIdleConnections()
	}
	t.current = transportTrusting(pool)
	return nil
}

// transportTrusting returns a transport that trusts pool, or the system's CAs
// if it is nil. It honours HTTPS_PROXY and NO_PROXY.
func transportTrusting(pool *x509.CertPool) *http.Transport {
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer.DialContext,
		TLSClientConfig:     &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 5 * time.Second,
		ForceAttemptHTTP2:   true,
		// All requests to a host share one HTTP/2 connection. Without pings a
		// connection that the network dropped in silence would fail each
		// request in turn until the kernel gives it up, minutes later.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 3 * time.Second},
		// All pods of the node ask the same host: after a node's start, dozens
		// at once.
		MaxIdleConns:        64,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     90 * time.Second,
	}
}
