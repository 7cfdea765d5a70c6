package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
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
	panics   string // the method that does
}

// panicIn panics if the method is set to. f.mu is held.
func (f *fakeAttester) panicIn(method string) {
	if f.panics == method {
		panic(method)
	}
}

func (f *fakeAttester) Inspect(c net.Conn, netnsCookie uint64) (workload.Connection, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.panicIn("Inspect")
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
	f.panicIn("Await")
	return f.decision.Verdict, f.attest
}

func (f *fakeAttester) Current(c workload.Caller) (workload.Workload, workload.Decision, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.panicIn("Current")
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
	if f.err != nil || f.before != nil || f.empty || r.BypassCache || !w.ServiceAccountSeen || w.ContainerUnknown && !r.Selects() {
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
