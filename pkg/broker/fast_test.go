package broker

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// countHTTP counts the requests that net/http answers.
func (r *rig) countHTTP() *atomic.Int64 {
	n := new(atomic.Int64)
	next := r.server.http.Handler
	r.server.http.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		n.Add(1)
		next.ServeHTTP(w, q)
	})
	return n
}

// raw sends the request on a new connection and returns the bytes of the
// answer, but for its date.
func (r *rig) raw(request string) string {
	r.t.Helper()
	c := r.dial()
	if _, err := io.WriteString(c, request); err != nil {
		r.t.Fatal(err)
	}
	var text bytes.Buffer
	c.reader = bufio.NewReader(io.TeeReader(c, &text))
	c.receive()
	return regexp.MustCompile(`Date: [^\r]*`).ReplaceAllString(text.String(), "Date: D")
}

// A cached token is answered in the same bytes with and without net/http.
func TestFastAnswerIsNetHTTPs(t *testing.T) {
	for name, request := range map[string]string{
		"azidentity": get(tokenTarget, "User-Agent: azsdk-go-azidentity/v1.15.0 (go1.26; linux)", "Accept-Encoding: gzip"),
		"requests":   get(tokenTarget+"&client_id=c-2", "Accept: */*", "Connection: keep-alive"),
		"node":       get(tokenTarget, "Connection: close"),
		"traced":     get(tokenTarget, "traceparent: 00-1-2-01", "x-ms-client-request-id: 1 2\t3", "Cookie:"),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			served := r.countHTTP()
			fast := r.raw(request)
			if served.Load() != 0 {
				t.Error("net/http has answered")
			}
			slow := r.raw(strings.Replace(request, "/token?", "/token/?", 1))
			if served.Load() != 1 {
				t.Error("net/http has not answered")
			}
			if diff := cmp.Diff(slow, fast); diff != "" {
				t.Errorf("(-net/http +fast):\n%s", diff)
			}
		})
	}
}

// Whatever is not known by sight, or has another answer than a cached token, is
// net/http's.
func TestNotFast(t *testing.T) {
	plain := get(tokenTarget)
	for name, test := range map[string]struct {
		request string
		change  func(*rig)
	}{
		"no Metadata header":      {request: request("GET", tokenTarget)},
		"Metadata: false":         {request: request("GET", tokenTarget, "Metadata: false")},
		"Metadata twice":          {request: get(tokenTarget, "Metadata: true")},
		"forwarded":               {request: get(tokenTarget, "x-forwarded-for: 1")},
		"another path":            {request: get("/metadata/identity/info")},
		"another host twice":      {request: get(tokenTarget, "Host: x")},
		"POST":                    {request: post(tokenTarget, "")},
		"a body":                  {request: get(tokenTarget, "Content-Length: 1") + "x"},
		"chunks":                  {request: get(tokenTarget, "Transfer-Encoding: chunked") + "0\r\n\r\n"},
		"Expect":                  {request: get(tokenTarget, "Expect: 100-continue")},
		"Upgrade":                 {request: get(tokenTarget, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c")},
		"HTTP/1.0":                {request: strings.Replace(plain, "HTTP/1.1", "HTTP/1.0", 1)},
		"bare line feeds":         {request: strings.ReplaceAll(plain, "\r\n", "\n")},
		"folded field":            {request: get(tokenTarget, "X: y\r\n z")},
		"no resource":             {request: get("/metadata/identity/oauth2/token?x=y")},
		"a parameter twice":       {request: get(tokenTarget + "&resource=x")},
		"bypass_cache":            {request: get(tokenTarget + "&bypass_cache=true")},
		"not in the cache":        {request: plain, change: func(r *rig) { r.tokens.set(func(f *fakeTokens) { f.empty = true }) }},
		"the pod is gone":         {request: plain, change: func(r *rig) { r.attester.set(func(f *fakeAttester) { f.current = io.EOF }) }},
		"metadata-only":           {request: plain, change: func(r *rig) { r.attester.set(func(f *fakeAttester) { f.decision.Access = workload.MetadataOnly }) }},
		"the agent is on its way": {request: plain, change: func(r *rig) { r.server.Drain() }},
		"too many requests": {request: plain, change: func(r *rig) {
			r.server.SetSettings(Settings{Limits: Limits{RequestsPerSecond: 1, Concurrent: 1}})
			r.dial().send(plain)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			served := r.countHTTP()
			if test.change != nil {
				test.change(r)
			}
			r.raw(test.request)
			if got := served.Load(); got != 1 && name != "another host twice" && name != "folded field" {
				t.Errorf("net/http's handler has answered %d requests, want 1", got)
			}
		})
	}
}

// The second of two requests that came together is answered once, after the
// first.
func TestFastLeavesPipelines(t *testing.T) {
	r := newRig(t)
	served := r.countHTTP()
	c := r.dial()
	c.send(get(tokenTarget))
	if _, err := io.WriteString(c, get(tokenTarget+"&client_id=a")+get(tokenTarget+"&client_id=b")); err != nil {
		t.Fatal(err)
	}
	for _, client := range []string{"a", "b"} {
		if got, _ := c.receive(); got.Body != tokenBody(client, "https://vault.azure.net") {
			t.Errorf("%s: %+v", client, got)
		}
	}
	if got := served.Load(); got != 2 {
		t.Errorf("net/http has answered %d requests, want 2", got)
	}
}

// A connection goes back to the fast way when net/http has answered what could
// not be answered there.
func TestFastAgainAfterMiss(t *testing.T) {
	r := newRig(t)
	served := r.countHTTP()
	c := r.dial()
	for range 3 {
		r.tokens.set(func(f *fakeTokens) { f.empty = true })
		if got, _ := c.send(get(tokenTarget + "&client_id=c-2")); got.Body != tokenBody("c-2", "https://vault.azure.net") {
			t.Errorf("a miss: %+v", got)
		}
		r.tokens.set(func(f *fakeTokens) { f.empty = false })
		back := false
		for range 100 {
			// net/http may have had a byte of the request when it answered the last.
			before := served.Load()
			c.send(get(tokenTarget))
			if back = served.Load() == before; back {
				break
			}
		}
		if !back {
			t.Fatal("net/http answers all that follows")
		}
	}
	c.send(get(tokenTarget, "Connection: close"))
	c.ended()
}

// After a request that is not plain a connection is net/http's for good.
func TestFastNeverAgain(t *testing.T) {
	r := newRig(t)
	served := r.countHTTP()
	c := r.dial()
	c.send(get(tokenTarget))
	c.send(post(tokenTarget, ""))
	c.send(get(tokenTarget))
	c.send(get(tokenTarget))
	if got := served.Load(); got != 3 {
		t.Errorf("net/http has answered %d requests, want 3", got)
	}
}

// What a server that is talked into a request sends in its body is no request,
// even where it looks like one and comes by itself.
func TestBodyIsNoRequest(t *testing.T) {
	r := newRig(t)
	asked := make(chan struct{}, 1)
	r.tokens.set(func(f *fakeTokens) {
		f.before = func(context.Context) { asked <- struct{}{} }
	})
	inner := get(tokenTarget)
	for name, outer := range map[string][2]string{
		"in a body": {request("POST", "/metadata/instance", fmt.Sprintf("Content-Length: %d", len(inner)))},
		"in chunks": {request("POST", "/metadata/instance", "Transfer-Encoding: chunked") + fmt.Sprintf("%x\r\n", len(inner)), "\r\n0\r\n\r\n"},
		"in a name": {"GET /metadata/instance HTTP/1.1\r\nHost: x\r\nA"},
	} {
		t.Run(name, func(t *testing.T) {
			c := r.dial()
			for _, part := range []string{outer[0], inner, outer[1]} {
				if _, err := io.WriteString(c, part); err != nil {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Millisecond) // so that the parts are read one by one
			}
			resp, err := http.ReadResponse(c.reader, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if strings.Contains(string(body), "access_token") {
				t.Errorf("a token came: %s", body)
			}
		})
	}
	select {
	case <-asked:
		t.Error("a token was asked for")
	default:
	}
}

// A byte that came while net/http still answered belongs to the next request.
func TestByteReadAhead(t *testing.T) {
	r := newRig(t)
	asked, goOn := make(chan struct{}, 1), make(chan struct{})
	r.tokens.set(func(f *fakeTokens) {
		f.before = func(context.Context) {
			asked <- struct{}{}
			<-goOn
		}
	})
	c := r.dial()
	if _, err := io.WriteString(c, get(tokenTarget)); err != nil {
		t.Fatal(err)
	}
	<-asked
	if _, err := io.WriteString(c, "X"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // net/http reads one byte meanwhile
	close(goOn)
	c.receive()
	r.tokens.set(func(f *fakeTokens) { f.before = nil })
	if got, _ := c.send(get(tokenTarget)); got.Status != 405 {
		t.Errorf("the method XGET: %+v, want 405", got)
	}
}

// An idle connection ends with the server.
func TestFastEndsWithServer(t *testing.T) {
	r := newRig(t)
	c := r.dial()
	c.send(get(tokenTarget))
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	c.ended()
}
