package tracing

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// answers is a collector that answers in turn, the last one for ever. A status
// of 0 is none.
type answers []struct {
	status     int
	retryAfter string
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	now := (*a)[0]
	if len(*a) > 1 {
		*a = (*a)[1:]
	}
	if now.status == 0 {
		return nil, errors.New("no route to host")
	}
	return &http.Response{
		StatusCode: now.status, Request: r, Body: io.NopCloser(strings.NewReader("")),
		Header: http.Header{"Retry-After": {now.retryAfter}, "Location": {"http://elsewhere/"}},
	}, nil
}

func TestSpansAreSentAgainWhereThatMayHelp(t *testing.T) {
	for name, tc := range map[string]struct {
		answers answers
		fails   bool
		after   time.Duration
	}{
		"taken":              {answers{{status: 200}}, false, 0},
		"taken, in part":     {answers{{status: 202}}, false, 0},
		"busy":               {answers{{status: 503}, {status: 502}, {status: 200}}, false, 3 * time.Second},
		"throttled":          {answers{{429, "7"}, {status: 200}}, false, 7 * time.Second},
		"until a date":       {answers{{429, "Sun, 06 Nov 1994 08:49:37 GMT"}, {status: 200}}, false, time.Second},
		"not there for once": {answers{{}, {status: 200}}, false, time.Second},
		"never there":        {answers{{}}, true, 20 * time.Second},
		"not wanted":         {answers{{status: 400}, {status: 200}}, true, 0},
		"elsewhere":          {answers{{status: 307}, {status: 200}}, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x, err := newExporter("http://collector", func(string) string { return "" })
				if err != nil {
					t.Fatal(err)
				}
				x.client.Transport = &tc.answers
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				began := time.Now()
				err = x.ExportSpans(ctx, []sdktrace.ReadOnlySpan{tracetest.SpanStub{Name: "work"}.Snapshot()})
				if (err != nil) != tc.fails || time.Since(began) != tc.after {
					t.Errorf("error %v after %s, want one: %v, after %s", err, time.Since(began), tc.fails, tc.after)
				}
			})
		})
	}
}
