package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// Options are what a Relay is made from. Every field is needed.
type Options struct {
	// Endpoint is the URL of the node's IMDS: http, a host and nothing more,
	// as in http://169.254.169.254.
	Endpoint string
	Limits   Limits
	Clock    clock.Clock
	Log      *slog.Logger
	// Panicked reports what recover returned in an exchange.
	Panicked func(recovered any)
}

// Limits bounds what is asked of the node's IMDS and what is kept of it.
type Limits struct {
	PerSecond int           // requests that reach IMDS in any second
	UnderWay  int           // exchanges that one pod has under way
	Waiting   int           // exchanges that one pod waits for
	Patience  time.Duration // how long a request waits for its turn
	Document  int           // bytes of one answer
	Kept      int           // answers that are kept to be shared
	KeptBytes int           // bytes of them
	Failure   time.Duration // how long an answer that is not 200 is shared
	LongPause time.Duration // for how long IMDS may tell everyone to stay away
}

// Request is what is sent to the node's IMDS, and all of it: nothing goes out
// in the caller's own spelling but the body and its type, and two equal GETs
// have the same answer.
type Request struct {
	Path     string
	Query    string        // names and values need no encoding
	UserData bool          // leave user data in
	Share    time.Duration // how long the answer holds for equal requests
	Timeout  time.Duration // how long IMDS may take
	// Of a POST alone, which is never shared.
	Post        bool
	Body        string
	ContentType string
}

// Answer is what is passed on of IMDS's response.
type Answer struct {
	Status      int
	ContentType string
	Body        []byte // must not be changed
	RetryAfter  string // the header; empty: none
}

// ErrUnusable says that IMDS gave no answer in time, or none that may be passed
// on.
var ErrUnusable = errors.New("relay: the node's IMDS gave no usable answer")

// BusyError says that the request's turn did not come.
type BusyError struct{ RetryAfter time.Duration }

// Error implements error.
func (e *BusyError) Error() string {
	return "relay: too many requests to the node's IMDS; retry after " + e.RetryAfter.String()
}

// Relay asks the node's IMDS. Its methods may be called from many goroutines.
type Relay struct {
	base    url.URL
	address string // of base, for dialling
	client  *http.Client
	log     *slog.Logger
	limits  Limits
	calls   *calls
}

// New returns a Relay, or an error if the endpoint is not one.
func New(o Options) (*Relay, error) {
	u, err := url.Parse(o.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("IMDS endpoint: %w", err)
	}
	if u.Scheme != "http" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("IMDS endpoint %q: want http://host or http://host:port", o.Endpoint)
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	r := &Relay{
		base:    url.URL{Scheme: u.Scheme, Host: u.Host},
		address: net.JoinHostPort(u.Hostname(), port),
		client: &http.Client{
			// No proxy: IMDS is this machine's own. No compression: what
			// comes back is read for user data. No connection is used again:
			// net/http repeats a request on one that breaks, uncounted.
			Transport: &http.Transport{
				DisableCompression:     true,
				DisableKeepAlives:      true,
				MaxResponseHeaderBytes: 64 << 10,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		log:    o.Log,
		limits: o.Limits,
	}
	r.calls = newCalls(o.Clock, o.Limits, r.send, o.Panicked)
	return r, nil
}

// Address returns the host and port of the node's IMDS.
func (r *Relay) Address() string { return r.address }

// Do returns the answer to a pod's request: that of an equal request under way
// or still holding, or of an exchange of its own. An error is ErrUnusable, a
// *BusyError or, where ctx has ended, its own.
func (r *Relay) Do(ctx context.Context, pod string, q Request) (Answer, error) {
	return r.calls.do(ctx, pod, q)
}

// send asks once, and calls sent when the request has left.
func (r *Relay) send(ctx context.Context, q Request, sent func()) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, q.Timeout)
	defer cancel()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { sent() },
	})
	a, err := r.exchange(r.request(q).WithContext(ctx), q)
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			r.log.Warn("the node's IMDS gave no usable answer", "path", q.Path, "err", err)
		}
		return Answer{}, fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	return a, nil
}

func (r *Relay) request(q Request) *http.Request {
	target := r.base
	target.Path, target.RawQuery = q.Path, q.Query
	header := http.Header{"User-Agent": {"sidestep-agent"}, "Metadata": {"true"}}
	request := &http.Request{Method: http.MethodGet, URL: &target, Host: target.Host, Header: header}
	if q.Post {
		request.Method, request.Body = http.MethodPost, io.NopCloser(strings.NewReader(q.Body))
		request.ContentLength = int64(len(q.Body))
		if q.ContentType != "" {
			header.Set("Content-Type", q.ContentType)
		}
	}
	return request
}

// exchange sends the request and returns what may be passed on of the
// response.
func (r *Relay) exchange(request *http.Request, q Request) (Answer, error) {
	resp, err := r.client.Do(request)
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	if err := usable(resp); err != nil {
		return Answer{}, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(r.limits.Document)+1))
	if err != nil {
		return Answer{}, fmt.Errorf("read response: %w", err)
	}
	if len(body) > r.limits.Document {
		return Answer{}, fmt.Errorf("response larger than %d bytes", r.limits.Document)
	}
	if !q.UserData {
		if body, err = withoutUserData(q.Path, body); err != nil {
			return Answer{}, err
		}
	}
	return Answer{
		Status:      resp.StatusCode,
		ContentType: resp.Header.Get("Content-Type"),
		Body:        body,
		RetryAfter:  resp.Header.Get("Retry-After"),
	}, nil
}

// usable returns an error for a response that is never passed on: a redirect
// would lead the client past every rule of ours, and what is compressed
// cannot be read for user data.
func usable(resp *http.Response) error {
	switch {
	case resp.StatusCode < 200, resp.StatusCode/100 == 3, http.StatusText(resp.StatusCode) == "":
		return fmt.Errorf("response with status %d", resp.StatusCode)
	case resp.Header.Get("Content-Encoding") != "":
		return errors.New("compressed response")
	}
	return nil
}

// pause returns for how long an answer says that IMDS must not be asked: a 429,
// whatever it says, for a second at least.
func (a Answer) pause(now time.Time, most time.Duration) time.Duration {
	if a.Status != http.StatusTooManyRequests && (a.Status != http.StatusServiceUnavailable || a.RetryAfter == "") {
		return 0
	}
	wait := time.Second
	if seconds, err := strconv.Atoi(a.RetryAfter); err == nil {
		wait = time.Duration(min(max(seconds, 1), 1<<20)) * time.Second
	} else if at, err := http.ParseTime(a.RetryAfter); err == nil {
		wait = max(at.Sub(now), wait)
	}
	return min(wait, most)
}

// once returns f such that only its first call counts.
func once(f func()) func() {
	var o sync.Once
	return func() { o.Do(f) }
}
