package tokens

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// fakeEntra answers like Entra's discovery and token endpoints, whatever host
// they are asked at, and keeps what it was sent. It is a transport and no
// server, so that time can be faked around it.
type fakeEntra struct {
	URL string
	mux *http.ServeMux

	mu          sync.Mutex
	down        bool
	panics      bool
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
	down, panics := f.down, f.panics
	f.mu.Unlock()
	if panics {
		panic("a fault of the test")
	}
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
