package tokens

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	tenantA = "aaaaaaaa-0000-4000-8000-00000000000a"
	clientA = "cccccccc-0000-4000-8000-00000000000a"
	clientB = "cccccccc-0000-4000-8000-00000000000b"
	vault   = "https://vault.azure.net"
)

// fakeEntra answers like Entra's discovery and token endpoints, whatever host
// they are asked at, and keeps what it was sent. It is a transport and no
// server, so that time can be faked around it.
type fakeEntra struct {
	URL string
	mux *http.ServeMux

	mu          sync.Mutex
	down        bool
	tries       int            // requests, answered or not
	discoveries map[string]int // by path
	hosts       []string       // asked for tokens
	forms       []url.Values
	lifetime    time.Duration
	refreshIn   time.Duration
	endpoint    string // token endpoint to name; empty: its own
	// refuse, if not nil, may answer in place of a token.
	refuse func(w http.ResponseWriter, form url.Values) bool
}

var errDown = errors.New("connection refused")

func newFakeEntra() *fakeEntra {
	f := &fakeEntra{
		URL: "https://entra.test", mux: http.NewServeMux(),
		discoveries: make(map[string]int), lifetime: time.Hour,
	}
	f.mux.HandleFunc("GET /{tenant}/v2.0/.well-known/openid-configuration", f.discover)
	f.mux.HandleFunc("POST /{tenant}/oauth2/v2.0/token", f.issue)
	return f
}

// RoundTrip implements http.RoundTripper.
func (f *fakeEntra) RoundTrip(req *http.Request) (*http.Response, error) {
	f.mu.Lock()
	f.tries++
	down := f.down
	f.mu.Unlock()
	if down {
		return nil, errDown
	}
	w, answered := httptest.NewRecorder(), make(chan struct{})
	go func() {
		defer close(answered)
		f.mux.ServeHTTP(w, req)
	}()
	select {
	case <-answered:
		return responseOf(w), nil
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
}

// responseOf breaks the body off where the header promises more of it.
func responseOf(w *httptest.ResponseRecorder) *http.Response {
	resp := &http.Response{
		StatusCode: w.Code, Header: w.Header(), ContentLength: int64(w.Body.Len()),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(w.Body),
	}
	if promised, err := strconv.Atoi(w.Header().Get("Content-Length")); err == nil && promised > w.Body.Len() {
		resp.Body = io.NopCloser(io.MultiReader(w.Body, brokenReader{}))
	}
	return resp
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func (f *fakeEntra) discover(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.discoveries[r.URL.Path]++
	endpoint := f.endpoint
	f.mu.Unlock()
	base := "https://" + r.URL.Host + "/" + r.PathValue("tenant")
	if endpoint == "" {
		endpoint = base + "/oauth2/v2.0/token"
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer":                 base + "/v2.0",
		"authorization_endpoint": base + "/oauth2/v2.0/authorize",
		"token_endpoint":         endpoint,
	})
}

func (f *fakeEntra) issue(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	f.forms, f.hosts = append(f.forms, r.PostForm), append(f.hosts, r.URL.Host)
	n, lifetime, refreshIn, refuse := len(f.forms), f.lifetime, f.refreshIn, f.refuse
	f.mu.Unlock()
	if refuse != nil && refuse(w, r.PostForm) {
		return
	}
	issued := map[string]any{
		"token_type":   "Bearer",
		"expires_in":   int(lifetime / time.Second),
		"access_token": fmt.Sprintf("secret-token-%d-for-%s", n, subjectOf(r.PostForm.Get("client_assertion"))),
	}
	if refreshIn != 0 {
		issued["refresh_in"] = int(refreshIn / time.Second)
	}
	writeJSON(w, http.StatusOK, issued)
}

func (f *fakeEntra) exchanges() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.forms)
}

func (f *fakeEntra) requests() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tries
}

func (f *fakeEntra) set(change func(*fakeEntra)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// refusing answers each exchange with an error of Entra.
func refusing(status, code int, name, description string) func(http.ResponseWriter, url.Values) bool {
	return func(w http.ResponseWriter, _ url.Values) bool {
		body := map[string]any{"error": name, "error_description": description}
		if code != 0 {
			body["error_codes"] = []int{code}
		}
		writeJSON(w, status, body)
		return true
	}
}

func subjectOf(assertion string) string {
	var c jwt.RegisteredClaims
	_, _, _ = jwt.NewParser().ParseUnverified(assertion, &c)
	return c.Subject
}

// bench is an engine with all that stands around it.
type bench struct {
	t      *testing.T
	entra  *fakeEntra
	engine *Engine
	clock  clock.RealClock // fake in a bubble
	date   *settableClock
	dir    string // kubelet's
	log    *syncBuffer
	audit  *syncBuffer
	reg    *prometheus.Registry
}

// settableClock tells the date, and can be set like a node's clock.
type settableClock struct {
	clock.PassiveClock
	mu   sync.Mutex
	step time.Duration
}

func (c *settableClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.PassiveClock.Now().Add(c.step)
}

func (c *settableClock) set(step time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.step += step
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// inBubble runs f with a bench whose time passes by itself when nothing else
// is to be done.
func inBubble(t *testing.T, f func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newBench(t)) })
}

func newBench(t *testing.T) *bench {
	b := &bench{
		t:     t,
		entra: newFakeEntra(),
		date:  &settableClock{PassiveClock: clock.RealClock{}},
		dir:   t.TempDir(),
		log:   &syncBuffer{},
		audit: &syncBuffer{},
		reg:   prometheus.NewRegistry(),
	}
	engine, err := New(Options{
		KubeletDir:    b.dir,
		TenantID:      tenantA,
		AuthorityHost: b.entra.URL + "/",
		Transport:     b.entra,
		Log:           slog.New(slog.NewTextHandler(b.log, nil)),
		Audit:         slog.New(slog.NewJSONHandler(b.audit, nil)),
		Registerer:    b.reg,
		Date:          b.date,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.engine = engine
	return b
}

// pod returns a workload whose assertion lies where the kubelet would put it.
func (b *bench) pod(namespace, account, name string) workload.Workload {
	w := workload.Workload{
		PodUID:             "pod-" + namespace + "-" + account + "-" + name,
		PodName:            name,
		Namespace:          namespace,
		ServiceAccount:     account,
		ServiceAccountUID:  "sa-" + namespace + "-" + account,
		ServiceAccountSeen: true,
		ClientID:           clientA,
		ChangedAt:          b.clock.Now().Add(-time.Hour),
		Projected:          &workload.ProjectedToken{Volume: "azure-identity-token", Path: "token/azure-identity-token"},
	}
	b.write(w, b.assertion(w, nil))
	return w
}

// assertion returns a service account token of w, after the change to its
// claims.
func (b *bench) assertion(w workload.Workload, change func(jwt.MapClaims)) string {
	claims := jwt.MapClaims{
		"iss": "https://issuer.example",
		"sub": w.Subject(),
		"aud": []string{workload.TokenAudience},
		"exp": b.clock.Now().Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{
			"namespace": w.Namespace,
			"pod":       map[string]any{"name": w.PodName, "uid": w.PodUID},
		},
	}
	if change != nil {
		change(claims)
	}
	signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte("key of the test"))
	if err != nil {
		b.t.Fatal(err)
	}
	return signed
}

// write lays the volume out as the kubelet does: the path's first part is a
// link into ..data, itself a link to a directory with a time in its name.
func (b *bench) write(w workload.Workload, assertion string) {
	b.t.Helper()
	volume := b.volume(w)
	first, _, _ := strings.Cut(w.Projected.Path, "/")
	file := filepath.Join(volume, "..2026_01_01", w.Projected.Path)
	_ = os.RemoveAll(volume)
	for _, err := range []error{
		os.MkdirAll(filepath.Dir(file), 0o755),
		os.WriteFile(file, []byte(assertion), 0o600),
		os.Symlink("..2026_01_01", filepath.Join(volume, "..data")),
		os.Symlink(filepath.Join("..data", first), filepath.Join(volume, first)),
	} {
		if err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *bench) volume(w workload.Workload) string {
	return filepath.Join(b.dir, "pods", w.PodUID, "volumes", "kubernetes.io~projected", w.Projected.Volume)
}

// patience is how long the broker has its callers wait.
const patience = 25 * time.Second

func (b *bench) token(w workload.Workload, r workload.TokenRequest) (workload.Token, error) {
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	return b.engine.Token(ctx, w, r)
}

// once asks without waiting for a second try.
func (b *bench) once(w workload.Workload, r workload.TokenRequest) (workload.Token, error) {
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Millisecond)
	defer cancel()
	return b.engine.Token(ctx, w, r)
}

func (b *bench) mustToken(w workload.Workload, r workload.TokenRequest) workload.Token {
	b.t.Helper()
	token, err := b.token(w, r)
	if err != nil {
		b.t.Fatalf("Token: %v", err)
	}
	return token
}

// wantToken is mustToken for a goroutine of its own.
func (b *bench) wantToken(w workload.Workload, r workload.TokenRequest) {
	if _, err := b.token(w, r); err != nil {
		b.t.Errorf("Token: %v", err)
	}
}

// run has tokens refreshed until the test ends.
func (b *bench) run() {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := b.engine.Run(ctx); err != nil {
			b.t.Error(err)
		}
	}()
	b.t.Cleanup(func() { stop(); <-ended })
}

// advance lets time pass in a bubble, and what it sets off end.
func (b *bench) advance(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
