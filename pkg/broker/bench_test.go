package broker

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// benchPeer knows every caller, at no cost.
type benchPeer struct{ token workload.Token }

func (benchPeer) Inspect(net.Conn, uint64) (workload.Connection, error) {
	return workload.Connection{}, nil
}

func (benchPeer) Attest(workload.Connection) (workload.Caller, workload.Verdict, error) {
	return testCaller, workload.Steer, nil
}

func (benchPeer) Await(context.Context, workload.Connection, workload.Caller) (workload.Verdict, error) {
	return workload.Steer, nil
}

func (benchPeer) Current(workload.Caller) (workload.Workload, workload.Decision, error) {
	return testPod, steered, nil
}

func (b benchPeer) Token(context.Context, workload.Workload, workload.TokenRequest) (workload.Token, error) {
	return b.token, nil
}

func (b benchPeer) Cached(workload.Workload, workload.TokenRequest) (workload.Token, bool) {
	return b.token, true
}

// newBench returns a Server for whom every pod has that token in the cache.
func newBench(b testing.TB) *Server {
	b.Helper()
	value := make([]byte, 1500)
	for i := range value {
		value[i] = 'a' + byte(i%26)
	}
	peer := benchPeer{workload.Token{
		Value: string(value), Type: "Bearer", ClientID: "client-default",
		NotBefore: time.Now(), ExpiresOn: time.Now().Add(time.Hour), Made: new(workload.Memo),
	}}
	s, err := New(Options{
		Attester: peer, Tokens: peer, Paths: &fakePaths{}, IMDSEndpoint: "http://127.0.0.1:1",
		Settings: Settings{Limits: Limits{RequestsPerSecond: 1 << 30, Concurrent: 1 << 10}},
		Log:      slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Clock: clock.RealClock{},
	})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// stubConn is a connection on which the same is read again and again, and what
// is written is gone.
type stubConn struct {
	net.Conn
	text  []byte
	reads int
}

func (c *stubConn) Read(p []byte) (int, error) {
	if c.reads--; c.reads < 0 {
		return 0, io.EOF
	}
	return copy(p, c.text), nil
}

func (c *stubConn) Write(p []byte) (int, error)      { return len(p), nil }
func (c *stubConn) Close() error                     { return nil }
func (c *stubConn) SetDeadline(time.Time) error      { return nil }
func (c *stubConn) SetReadDeadline(time.Time) error  { return nil }
func (c *stubConn) SetWriteDeadline(time.Time) error { return nil }
func (c *stubConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *stubConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }

var clientRequest = []byte(get(
	"/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net",
	"User-Agent: azsdk-go-azidentity/v1.15.0 (go1.26; linux)", "Accept-Encoding: gzip",
))

// BenchmarkCachedKeepAlive is a request for a cached token on a connection that
// stays, from its bytes to the answer's.
func BenchmarkCachedKeepAlive(b *testing.B) {
	s := newBench(b)
	b.ReportAllocs()
	s.HandleConn(&stubConn{text: clientRequest, reads: b.N}, testCookie)
}

// BenchmarkCachedNewConnection is the same with a connection for each request.
func BenchmarkCachedNewConnection(b *testing.B) {
	s := newBench(b)
	b.ReportAllocs()
	for b.Loop() {
		s.HandleConn(&stubConn{text: clientRequest, reads: 1}, testCookie)
	}
}

// BenchmarkCachedNetHTTP is a request for a cached token that net/http has
// read, in our handler alone.
func BenchmarkCachedNetHTTP(b *testing.B) {
	s := newBench(b)
	w, r := newStubRequest(b, s)
	b.ReportAllocs()
	for b.Loop() {
		clear(w.header)
		s.serve(w, r)
	}
}

func newStubRequest(t testing.TB, s *Server) (*stubWriter, *http.Request) {
	t.Helper()
	c := &conn{Conn: &stubConn{}, accepted: &stubConn{}, server: s, caller: testCaller}
	if !c.admit() {
		t.Fatal("not admitted")
	}
	r, err := http.NewRequestWithContext(
		context.WithValue(t.Context(), connKey{}, c),
		http.MethodGet, "http://x/metadata/identity/oauth2/token?resource=https%3A%2F%2Fvault.azure.net", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.RequestURI = r.URL.RequestURI()
	r.Header.Set("Metadata", "true")
	return &stubWriter{header: http.Header{}}, r
}

type stubWriter struct{ header http.Header }

func (w *stubWriter) Header() http.Header         { return w.header }
func (w *stubWriter) WriteHeader(int)             {}
func (w *stubWriter) Write(p []byte) (int, error) { return len(p), nil }

func BenchmarkRecognize(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := recognize(clientRequest); !ok {
			b.Fatal("not recognized")
		}
	}
}

// What a cached token costs in allocations of our own code.
func TestCachedAllocations(t *testing.T) {
	s := newBench(t)
	on := func(requests int) float64 {
		return testing.AllocsPerRun(100, func() {
			s.HandleConn(&stubConn{text: clientRequest, reads: requests}, testCookie)
		})
	}
	const most, kept = 10, 100
	one := on(1)
	if one > most {
		t.Errorf("on a new connection: %v, want %d at most", one, most)
	}
	if each := (on(1+kept) - one) / kept; each >= 1 {
		t.Errorf("on one that stays: %v, want none", each)
	}
	w, r := newStubRequest(t, s)
	if n := testing.AllocsPerRun(100, func() { clear(w.header); s.serve(w, r) }); n > most {
		t.Errorf("by net/http: %v, want %d at most", n, most)
	}
}
