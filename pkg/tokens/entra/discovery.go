package entra

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/tokens/bounded"
)

const (
	discoveryPath     = "/v2.0/.well-known/openid-configuration"
	discoveryLifetime = 24 * time.Hour
	maxDiscoveries    = 256
	// maxAnswer bounds what a host that a pod's author chose can make the
	// agent read.
	maxAnswer = 1 << 20
)

var errNoTLS = errors.New("not sent without TLS")

// PanicError is a panic in what several exchanges share.
type PanicError struct {
	Cause any
	Stack []byte
}

func (e *PanicError) Error() string { return "panic" }

// discovery is an http.RoundTripper that remembers the discovery document of
// each authority and tenant, so that MSAL clients can be made for single
// exchanges without a round trip more for each.
type discovery struct {
	next   http.RoundTripper
	clock  clock.PassiveClock
	flight singleflight.Group

	mu        sync.Mutex
	documents *bounded.Map[string, document]
}

// document is one answer to a discovery request.
type document struct {
	status  int
	header  http.Header
	body    []byte
	expires time.Time
}

func newDiscovery(next http.RoundTripper, c clock.PassiveClock) *discovery {
	return &discovery{
		next:  next,
		clock: c,
		documents: bounded.New[string](maxDiscoveries, func(d document, now time.Time) bool {
			return !now.Before(d.expires)
		}),
	}
}

// RoundTrip implements http.RoundTripper.
func (d *discovery) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, errNoTLS
	}
	if req.Method != http.MethodGet || !strings.HasSuffix(req.URL.Path, discoveryPath) {
		resp, err := d.next.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxAnswer)
		return resp, nil
	}
	doc, err := d.document(req)
	if err != nil {
		return nil, err
	}
	return doc.response(req), nil
}

// document returns the remembered document, or asks for it once for all who
// wait for it.
func (d *discovery) document(req *http.Request) (document, error) {
	if doc, ok := d.remembered(documentURL(req)); ok {
		return doc, nil
	}
	return d.ask(req, true)
}

func documentURL(req *http.Request) string { return "https://" + req.URL.Host + req.URL.Path }

// ask asks for the document once for all who wait for it. With unlessKnown one
// that came meanwhile will do.
func (d *discovery) ask(req *http.Request, unlessKnown bool) (document, error) {
	url := documentURL(req)
	shared := d.flight.DoChan(url, func() (_ any, err error) {
		// singleflight would end the process.
		defer func() {
			if cause := recover(); cause != nil {
				err = &PanicError{Cause: cause, Stack: debug.Stack()}
			}
		}()
		// The flight before this one may have ended just now.
		if doc, ok := d.remembered(url); ok && unlessKnown {
			return doc, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(req.Context()), requestLimit)
		defer cancel()
		return d.fetch(req.Clone(ctx), url)
	})
	select {
	case r := <-shared:
		if r.Err != nil {
			return document{}, r.Err
		}
		return r.Val.(document), nil
	case <-req.Context().Done():
		return document{}, req.Context().Err()
	}
}

func (d *discovery) remembered(url string) (document, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.documents.Get(url, d.clock.Now())
}

func (d *discovery) fetch(req *http.Request, url string) (document, error) {
	resp, err := d.next.RoundTrip(req)
	if err != nil {
		return document{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(http.MaxBytesReader(nil, resp.Body, maxAnswer))
	if err != nil {
		return document{}, fmt.Errorf("read the discovery document: %w", err)
	}
	now := d.clock.Now()
	doc := document{resp.StatusCode, resp.Header, body, now.Add(discoveryLifetime)}
	if doc.usable("https://" + req.URL.Host) {
		d.mu.Lock()
		d.documents.Put(url, doc, now)
		d.mu.Unlock()
	}
	return doc, nil
}

// usable reports whether the document may be remembered: a captive portal's
// page, or a document that no exchange could use, must not stay for a day.
func (doc document) usable(authority string) bool {
	var endpoints struct {
		Token  string `json:"token_endpoint"`
		Issuer string `json:"issuer"`
	}
	return doc.status == http.StatusOK &&
		json.Unmarshal(doc.body, &endpoints) == nil &&
		endpoints.Issuer != "" && mayReceive(authority, endpoints.Token)
}

func (doc document) response(req *http.Request) *http.Response {
	return &http.Response{
		Status:        fmt.Sprintf("%d %s", doc.status, http.StatusText(doc.status)),
		StatusCode:    doc.status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        doc.header.Clone(),
		Body:          io.NopCloser(bytes.NewReader(doc.body)),
		ContentLength: int64(len(doc.body)),
		Request:       req,
	}
}
