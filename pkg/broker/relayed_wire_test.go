package broker

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// wire is a stand-in of the node's IMDS that keeps each request byte for byte.
type wire struct {
	net.Listener
	serving sync.WaitGroup
	mu      sync.Mutex
	seen    []string
}

func newWire(t *testing.T) *wire {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: l}
	t.Cleanup(func() { _ = l.Close() })
	w.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.serving.Go(func() { w.serve(c) })
		}
	})
	return w
}

// serve answers one request. Whatever follows it on the connection, up to its
// end, is kept with it.
func (w *wire) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	var raw strings.Builder
	request, err := http.ReadRequest(bufio.NewReader(io.TeeReader(c, &raw)))
	if err == nil {
		_, _ = io.Copy(io.Discard, request.Body)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"+
			"Connection: keep-alive\r\nServer: IMDS\r\nProxy-Authenticate: Basic\r\nSet-Cookie: a=b\r\nUpgrade: h2c\r\n\r\n{}")
		_, _ = io.Copy(&raw, c)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, strings.ReplaceAll(raw.String(), w.Addr().String(), "imds"))
}

// all ends the stand-in and returns the requests that came.
func (w *wire) all() []string {
	_ = w.Close()
	w.serving.Wait()
	return w.seen
}

// hostile are headers that a proxy must not pass on, and some by which servers
// let the path or the method be changed.
var hostile = []string{
	"Connection: keep-alive, Metadata-X, Upgrade", "Keep-Alive: timeout=5", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__",
	"Proxy-Authorization: Basic x", "Proxy-Connection: keep-alive", "TE: trailers", "Cookie: a=b", "Authorization: Bearer x",
	"X-Original-URL: /metadata/identity/oauth2/token", "X-Rewrite-URL: /metadata/identity/oauth2/token",
	"X-HTTP-Method-Override: POST", "X-Forwarded-Host: x", "X-Forwarded-Path: /metadata/identity", "Forwarded: for=x",
	"Accept-Encoding: gzip", "Range: bytes=0-1", "If-None-Match: x", "Referer: x", "Accept: */*", "User-Agent: curl",
}

// What reaches the node's IMDS is the agent's own request, whatever the
// caller's looked like.
func TestRelaySendsItsOwnRequest(t *testing.T) {
	own := func(target string) string {
		return "GET " + target + " HTTP/1.1\r\nHost: imds\r\nUser-Agent: sidestep-agent\r\nMetadata: true\r\nConnection: close\r\n\r\n"
	}
	allowing := testSettings
	allowing.Relay.Allow = []string{"/metadata/scheduledevents"}
	for name, test := range map[string]struct{ request, want string }{
		"plain":                 {get("/metadata/instance?api-version=2021-02-01"), own("/metadata/instance?api-version=2021-02-01")},
		"case and slash":        {request("GET", "/METADATA/Instance/compute/vmId/", "metadata: tRUE "), own("/metadata/instance/compute/vmId")},
		"headers":               {get("/metadata/versions", hostile...), own("/metadata/versions")},
		"absolute form":         {get("http://x/metadata/versions?api-version=b"), own("/metadata/versions?api-version=b")},
		"encoded query":         {get("/metadata/versions?%61pi-version=%62&c=%2f..%2fidentity&/../identity/oauth2/token&d=e"), own("/metadata/versions?api-version=b")},
		"fragment":              {get("/metadata/versions?api-version=b&c=#/../identity"), own("/metadata/versions?api-version=b")},
		"body of a GET":         {get("/metadata/versions", "Content-Length: 3") + "abc", own("/metadata/versions")},
		"chunked body of a GET": {get("/metadata/versions", "Transfer-Encoding: chunked") + "3\r\nabc\r\n0\r\n\r\n", own("/metadata/versions")},
		"HTTP/1.0":              {"GET /metadata/versions HTTP/1.0\r\nMetadata: true\r\n\r\n", own("/metadata/versions")},
		"POST": {request("POST", "/metadata/ScheduledEvents?api-version=2020-07-01", "Metadata: true", "Content-Type: application/json",
			"Transfer-Encoding: chunked", "Trailer: X-Original-URL") + "2\r\n{}\r\n0\r\nX-Original-URL: /metadata/identity\r\n\r\n",
			"POST /metadata/scheduledevents?api-version=2020-07-01 HTTP/1.1\r\nHost: imds\r\nUser-Agent: sidestep-agent\r\n" +
				"Content-Length: 2\r\nContent-Type: application/json\r\nMetadata: true\r\nConnection: close\r\n\r\n{}"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t)
			r := newRig(t, func(o *Options) {
				o.IMDSEndpoint = "http://" + w.Addr().String()
				o.Settings = allowing
			})
			got, header := r.dial().send(test.request)
			if want := (reply{200, "{}"}); got != want {
				t.Errorf("answer %+v, want %+v", got, want)
			}
			delete(header, "Date")
			delete(header, "Connection")
			if diff := cmp.Diff(http.Header{"Content-Type": {"application/json"}, "Content-Length": {"2"}}, header); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{test.want}, w.all()); diff != "" {
				t.Errorf("on the wire (-want +got):\n%s", diff)
			}
		})
	}
}

// A second request on a caller's connection, hidden in the first or behind it,
// is one of the caller's own.
func TestRelayIsNotSmuggledThrough(t *testing.T) {
	hidden := get("/metadata/identity/oauth2/token?resource=x", "Connection: close")
	for name, first := range map[string]string{
		"length and chunks": request("GET", "/metadata/versions", "Content-Length: 4", "Transfer-Encoding: chunked") + "0\r\n\r\n" + hidden,
		"two lengths":       request("GET", "/metadata/versions", "Content-Length: 0", "Content-Length: 9") + hidden,
		"unknown encoding":  request("GET", "/metadata/versions", "Transfer-Encoding: xchunked") + hidden,
		"odd header name":   request("GET", "/metadata/versions", "Transfer-Encoding : chunked") + hidden,
		"pipelined":         get("/metadata/versions") + hidden,
		"bare line feeds":   strings.ReplaceAll(get("/metadata/versions")+hidden, "\r\n", "\n"),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t)
			r := newRig(t, func(o *Options) { o.IMDSEndpoint = "http://" + w.Addr().String() })
			c := r.dial()
			if _, err := io.WriteString(c, first); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(c); err != nil {
				t.Fatal(err)
			}
			for _, seen := range w.all() {
				if strings.Contains(seen, "identity") || strings.Count(seen, "HTTP/1.1") != 1 {
					t.Errorf("on the wire: %q", seen)
				}
			}
		})
	}
}
