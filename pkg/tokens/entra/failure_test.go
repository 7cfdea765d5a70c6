package entra

import (
	"context"
	"encoding/json"
	"io"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sidestep-agent/sidestep/pkg/tokens/aadsts"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"":                                       0,
		"5":                                      5 * time.Second,
		"-5":                                     0,
		"999999999":                              MaxRetryAfter,
		"99999999999999999999":                   0,
		"soon":                                   0,
		"Fri, 02 Jan 2026 03:04:35 GMT":          30 * time.Second,
		now.Add(-time.Hour).Format(time.RFC1123): 0,
	} {
		if got := retryAfter(header, now); got != want {
			t.Errorf("retryAfter(%q) = %v, want %v", header, got, want)
		}
	}
}

func FuzzParseEntraError(f *testing.F) {
	f.Add([]byte(`{"error":"invalid_client","error_description":"AADSTS70021: No match.\r\nTrace ID: 1","error_codes":[70021],"timestamp":"2026-01-01 00:00:00Z"}`))
	f.Add([]byte(`{"error":"invalid_client","error_description":"AADSTS700016: gone. Trace ID: 1 Correlation ID: 2","error_codes":[700016]}`))
	f.Add([]byte(`{"error":{"code":1},"error_codes":["70021"],"error_description":7}`))
	f.Add([]byte(`{"error_codes":[-1,99999999999999999999]}`))
	f.Add([]byte(`{"error_description":"eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.c2ln\u0000\u2028"}`))
	f.Add([]byte("\xff{"))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, body []byte) {
		e := parseEntraError(body)
		if strings.ContainsFunc(e.description, func(r rune) bool { return !unicode.IsPrint(r) }) || !utf8.ValidString(e.description) {
			t.Errorf("description %q is not one printable line", e.description)
		}
		if utf8.RuneCountInString(e.description) > maxDescription || jwtLike.MatchString(e.description) {
			t.Errorf("description %q is too long or has a JWT in it", e.description)
		}
		if e.code != "" && (!strings.HasPrefix(e.code, "AADSTS") || !json.Valid(body)) {
			t.Errorf("code %q out of %q", e.code, body)
		}
	})
}

// Each code of the table, as Entra sends it, is of the kind that its row says.
func TestKindsFollowTheTable(t *testing.T) {
	for row := range aadsts.All() {
		want := workload.Refused
		switch {
		case row.Kind == aadsts.Transient:
			want = workload.Unavailable
		case row.Resource:
			want = workload.InvalidResource
		}
		said := entraError{name: row.OAuth, code: row.Code}
		if got := kindOf(row.Status, said); got != want {
			t.Errorf("%s is %v, want %v", row.Code, got, want)
		}
		if got := Whose(&workload.TokenError{Kind: want, Code: row.Code}); got != row.Whose {
			t.Errorf("%s is said about %v, want %v", row.Code, got, row.Whose)
		}
	}
}

func TestWhoseFailure(t *testing.T) {
	network := &url.Error{Op: "Post", URL: "https://x", Err: io.EOF}
	for name, tt := range map[string]struct {
		err  error
		want aadsts.Whose
	}{
		"an answer":                {statusError(500), aadsts.Client},
		"throttled":                {statusError(429), aadsts.Client},
		"an unreadable answer":     {errUnreadable, aadsts.Client},
		"no network":               {network, aadsts.Way},
		"no answer":                {context.DeadlineExceeded, aadsts.Way},
		"discovery that fails":     {unsentError{statusError(503)}, aadsts.Way},
		"discovery that is no use": {unsentError{errUnreadable}, aadsts.Way},
	} {
		if got := Whose(&workload.TokenError{Kind: workload.Unavailable, Err: tt.err}); got != tt.want {
			t.Errorf("%s is about %v, want %v", name, got, tt.want)
		}
	}
}
