package broker

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

var (
	testNow    = time.Unix(1_800_000_000, 0)
	testCaller = workload.Caller{PodUID: "pod-1", CgroupID: 11}
	testPod    = workload.Workload{
		PodUID: "pod-1", PodName: "web-0", Namespace: "shop", ServiceAccount: "web",
		ClientID: "client-default", TenantID: "tenant-1", ServiceAccountSeen: true,
	}
	steered = workload.Decision{Verdict: workload.Steer, Access: workload.Identity}
)

// unknownPodError is an attester's error for a pod that is not in its cache.
type unknownPodError struct{}

func (unknownPodError) Error() string { return "pod not known" }
func (unknownPodError) Unknown() bool { return true }

// fakeAttester proves every connection to be the pod that it is set to.
type fakeAttester struct {
	mu       sync.Mutex
	before   func(context.Context) // runs while the caller is not known
	attest   error
	current  error
	decision workload.Decision
	pod      workload.Workload
	conns    []workload.Connection
}

func (f *fakeAttester) Inspect(c net.Conn, netnsCookie uint64) (workload.Connection, error) {
	return workload.Connection{
		NetnsCookie: netnsCookie,
		Client:      c.RemoteAddr().(*net.TCPAddr).AddrPort(),
		Server:      c.LocalAddr().(*net.TCPAddr).AddrPort(),
	}, nil
}

func (f *fakeAttester) Attest(c workload.Connection) (workload.Caller, workload.Verdict, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns = append(f.conns, c)
	if f.before != nil {
		return testCaller, workload.Unknown, nil
	}
	return testCaller, f.decision.Verdict, f.attest
}

func (f *fakeAttester) Await(ctx context.Context, _ workload.Connection, _ workload.Caller) (workload.Verdict, error) {
	f.mu.Lock()
	before := f.before
	f.mu.Unlock()
	if before != nil {
		before(ctx)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.decision.Verdict, f.attest
}

func (f *fakeAttester) Current(c workload.Caller) (workload.Workload, workload.Decision, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c != testCaller {
		return workload.Workload{}, workload.Decision{}, errors.New("not the attested caller")
	}
	return f.pod, f.decision, f.current
}

// set changes the pod as a watch event would.
func (f *fakeAttester) set(change func(*fakeAttester)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeAttester) connections() []workload.Connection {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]workload.Connection(nil), f.conns...)
}

// fakeTokens issues a token that names what was asked for.
type fakeTokens struct {
	mu     sync.Mutex
	err    error
	before func(context.Context) // runs as the exchange would
	empty  bool                  // nothing is in the cache
	asked  []workload.TokenRequest
	hits   int // of asked: from the cache
}

func (f *fakeTokens) Token(ctx context.Context, w workload.Workload, r workload.TokenRequest) (workload.Token, error) {
	f.mu.Lock()
	f.asked = append(f.asked, r)
	err, before := f.err, f.before
	f.mu.Unlock()
	if before != nil {
		before(ctx)
	}
	return f.token(w, r), err
}

// Cached has every token that Token does not wait for.
func (f *fakeTokens) Cached(w workload.Workload, r workload.TokenRequest) (workload.Token, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil || f.before != nil || f.empty || r.BypassCache || !w.ServiceAccountSeen {
		return workload.Token{}, false
	}
	f.asked = append(f.asked, r)
	f.hits++
	return f.token(w, r), true
}

func (f *fakeTokens) token(w workload.Workload, r workload.TokenRequest) workload.Token {
	return workload.Token{
		Value: "secret-token", Type: "Bearer", ClientID: cmp.Or(r.ClientID, w.ClientID),
		NotBefore: testNow.Add(-300 * time.Second), ExpiresOn: testNow.Add(3599 * time.Second),
	}
}

// set changes what Tokens does from now on.
func (f *fakeTokens) set(change func(*fakeTokens)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeTokens) requests() []workload.TokenRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]workload.TokenRequest(nil), f.asked...)
}

// fakeIMDS is the node's IMDS: it records what reaches it.
type fakeIMDS struct {
	*httptest.Server
	mu     sync.Mutex
	seen   []string // method, request target, then Metadata and other headers
	handle http.HandlerFunc
}

func newFakeIMDS(t *testing.T) *fakeIMDS {
	f := &fakeIMDS{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.seen = append(f.seen, strings.TrimSpace(fmt.Sprintf("%s %s %s%s", r.Method, r.RequestURI,
			strings.Join(r.Header["Metadata"], ","), r.Header.Get("X-Forwarded-For"))))
		handle := f.handle
		f.mu.Unlock()
		if handle != nil {
			handle(w, r)
			return
		}
		w.Header().Set("Content-Type", contentJSON)
		_, _ = io.WriteString(w, `{"node":true}`)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fakeIMDS) answerWith(h http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handle = h
}

func (f *fakeIMDS) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.seen...)
}

// logBuffer takes log lines from many goroutines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// rig is a running Server behind a real listener on loopback.
type rig struct {
	t        *testing.T
	server   *Server
	attester *fakeAttester
	tokens   *fakeTokens
	imds     *fakeIMDS
	clock    *testingclock.FakeClock
	log      *logBuffer
	registry *prometheus.Registry
	address  string
	stop     func() error // ends Run and returns its error
}

var testSettings = Settings{
	Relay:  RelaySettings{Instance: true},
	Limits: Limits{RequestsPerSecond: 1000, Concurrent: 64},
}

const testCookie = 4711

func newRig(t *testing.T, change ...func(*Options)) *rig {
	t.Helper()
	r := &rig{
		t:        t,
		attester: &fakeAttester{decision: steered, pod: testPod},
		tokens:   &fakeTokens{},
		imds:     newFakeIMDS(t),
		clock:    testingclock.NewFakeClock(testNow),
		log:      &logBuffer{},
		registry: prometheus.NewRegistry(),
	}
	options := Options{
		Attester: r.attester, Tokens: r.tokens, Settings: testSettings, IMDSEndpoint: r.imds.URL,
		Log:        slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelInfo})),
		Registerer: r.registry, Clock: r.clock,
	}
	for _, f := range change {
		f(&options)
	}
	server, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	r.server = server
	r.listen()
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- server.Run(ctx) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-ran
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

func (r *rig) listen() {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.address = l.Addr().String()
	r.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go r.server.HandleConn(c, testCookie)
		}
	}()
}

// client is one connection of the application's.
type client struct {
	net.Conn
	t      *testing.T
	reader *bufio.Reader
}

func (r *rig) dial() *client {
	r.t.Helper()
	c, err := net.Dial("tcp4", r.address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return &client{Conn: c, t: r.t, reader: bufio.NewReader(c)}
}

// reply is what a test compares of a response.
type reply struct {
	Status int
	Body   string
}

// send writes the request and returns the response, its body read.
func (c *client) send(request string) (reply, http.Header) {
	c.t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		c.t.Fatal(err)
	}
	return c.receive()
}

func (c *client) receive() (reply, http.Header) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		c.t.Fatalf("read response: %v", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("read body: %v", err)
	}
	if resp.Close {
		resp.Header.Set("Connection", "close")
	}
	return reply{resp.StatusCode, string(body)}, resp.Header
}

// ended fails unless the other end has closed the connection properly: an
// end of stream, no reset, nothing more to read.
func (c *client) ended() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.reader); err != nil || len(rest) > 0 {
		c.t.Errorf("connection ended with %d bytes and error %v, want a plain end", len(rest), err)
	}
}

// get returns a GET with the Metadata header and those given.
func get(target string, headers ...string) string {
	return request("GET", target, append([]string{"Metadata: true"}, headers...)...)
}

func request(method, target string, headers ...string) string {
	lines := append([]string{method + " " + target + " HTTP/1.1", "Host: 169.254.169.254"}, headers...)
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// errorBody is an error of IMDS's, byte for byte.
func errorBody(code, description string) string {
	return `{"error":"` + code + `","error_description":"` + description + `"}`
}

var throttledReply = reply{429, errorBody("invalid_request", "Temporarily throttled, too many requests")}

const tokenTarget = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net"
