package broker

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
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
	paths    *fakePaths
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
		paths:    &fakePaths{opened: make(chan struct{})},
		imds:     newFakeIMDS(t),
		clock:    testingclock.NewFakeClock(testNow),
		log:      &logBuffer{},
		registry: prometheus.NewRegistry(),
	}
	options := Options{
		Attester: r.attester, Tokens: r.tokens, Paths: r.paths, Settings: testSettings, IMDSEndpoint: r.imds.URL,
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
	_ = c.SetDeadline(time.Now().Add(30 * time.Second)) // a missing answer fails one test
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

// page is the answer on a path outside /metadata.
var page = reply{404, notFoundPage}

// noMetadata is the answer to a request for metadata without the header.
var noMetadata = reply{400, `{"error":"Bad request. Required metadata header not specified"}`}

// identitySpellings are paths that some server reads as one below
// /metadata/identity.
var identitySpellings = func() []string {
	text, err := os.ReadFile("imdspath/testdata/identity-paths.txt")
	if err != nil {
		panic(err)
	}
	return strings.Fields(string(text))
}()

// reset ends the connection as a client's that is gone: the kernel tells the
// other end at once.
func (c *client) reset() {
	c.t.Helper()
	if err := c.Conn.(*net.TCPConn).SetLinger(0); err != nil {
		c.t.Fatal(err)
	}
	_ = c.Close()
}
