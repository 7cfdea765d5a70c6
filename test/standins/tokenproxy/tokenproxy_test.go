package tokenproxy

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/sidestep-agent/sidestep/test/standins/journal"
	"github.com/sidestep-agent/sidestep/test/standins/jwks"
)

const (
	authority = "login.microsoftonline.com"
	sni       = "example.com" // of httptest's certificate
)

// recorded is a request of azidentity's.
type recorded struct {
	SNI, Method, Host, Path, ContentType string
	Form                                 url.Values
}

// What azidentity was recorded to send is passed on, and nothing that differs
// from it in any point.
func TestOnlyWhatAzidentitySendsIsPassedOn(t *testing.T) {
	text, err := os.ReadFile("../../../pkg/tokens/testdata/identitybinding.json")
	if err != nil {
		t.Fatal(err)
	}
	key, err := jwks.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	sign := func(audience ...string) []string {
		token, err := key.Sign(map[string]any{"sub": "system:serviceaccount:a:b", "aud": audience})
		if err != nil {
			t.Fatal(err)
		}
		return []string{token}
	}
	for name, tc := range map[string]struct {
		change func(discovery, token *recorded)
		passed int // of the two requests
	}{
		"as recorded":         {func(_, _ *recorded) {}, 2},
		"another SNI":         {func(d, r *recorded) { d.SNI, r.SNI = "www.example.com", "www.example.com" }, 0},
		"another host":        {func(d, r *recorded) { d.Host, r.Host = "x", "x" }, 0},
		"another path":        {func(d, r *recorded) { d.Path, r.Path = "/x"+d.Path, "/x"+r.Path }, 0},
		"GET for a token":     {func(_, r *recorded) { r.Method = http.MethodGet }, 1},
		"a field more":        {func(_, r *recorded) { r.Form.Set("resource", "x") }, 1},
		"a field less":        {func(_, r *recorded) { r.Form.Del("client_info") }, 1},
		"audience of Entra":   {func(_, r *recorded) { r.Form["client_assertion"] = sign("api://AzureADTokenExchange") }, 1},
		"several audiences":   {func(_, r *recorded) { r.Form["client_assertion"] = sign(Audience, "x") }, 1},
		"assertion is no JWT": {func(_, r *recorded) { r.Form.Set("client_assertion", "x") }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var golden struct{ Requests [2]recorded }
			if err := json.Unmarshal(text, &golden); err != nil {
				t.Fatal(err)
			}
			discovery, token := &golden.Requests[0], &golden.Requests[1]
			for _, r := range []*recorded{discovery, token} {
				r.Path = strings.TrimPrefix(r.Path, "/base") // the recorded proxy had a path of its own
			}
			token.Form["client_assertion"] = sign(Audience)
			tc.change(discovery, token)
			passed, log := 0, &bytes.Buffer{}
			proxy, err := New(Options{SNI: sni, Authority: authority, Log: log, Entra: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed++ })})
			if err != nil {
				t.Fatal(err)
			}
			server := httptest.NewTLSServer(proxy)
			for _, r := range []*recorded{discovery, token} {
				send(t, server, *r)
			}
			server.Close()
			if passed != tc.passed {
				t.Errorf("%d passed on, want %d", passed, tc.passed)
			}
			entries, err := journal.Read[Entry](log)
			if err != nil || len(entries) != 2 || (entries[1].Refused == "") != (tc.passed == 2) {
				t.Errorf("log %+v, %v", entries, err)
			}
		})
	}
}

func send(t *testing.T, server *httptest.Server, r recorded) {
	t.Helper()
	request, err := http.NewRequest(r.Method, server.URL+r.Path, strings.NewReader(r.Form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Host = r.Host
	request.Header.Set("Content-Type", r.ContentType)
	roots := server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: r.SNI, InsecureSkipVerify: r.SNI != sni}}
	defer transport.CloseIdleConnections()
	answer, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
}

func TestOptionsAreNeeded(t *testing.T) {
	if _, err := New(Options{SNI: sni, Authority: authority}); err == nil {
		t.Error("a proxy without Entra")
	}
}
