package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"k8s.io/utils/clock"
)

// Bounds of one relayed request.
const (
	relayTimeout = 2 * time.Second
	maxDocument  = 1 << 20
)

// relay asks the node's own IMDS in the callers' stead.
type relay struct {
	base    url.URL
	address string // of base, for dialling
	client  *http.Client
	log     *slog.Logger
	window  *window
	flights *flights
}

// relayRequest is what is sent to the node's IMDS, and all of it: two equal
// ones have the same answer.
type relayRequest struct {
	path     string
	query    string
	metadata string // the Metadata headers, NUL behind each
	userData bool   // leave user data in
}

func newRelay(endpoint string, c clock.PassiveClock, log *slog.Logger) (*relay, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("IMDS endpoint: %w", err)
	}
	if u.Scheme != "http" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("IMDS endpoint %q: want http://host or http://host:port", endpoint)
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	window := newWindow(c)
	return &relay{
		base:    url.URL{Scheme: u.Scheme, Host: u.Host},
		address: net.JoinHostPort(u.Hostname(), port),
		client: &http.Client{
			// No proxy: IMDS is this machine's own. No compression: what
			// comes back is read for user data.
			Transport: &http.Transport{
				DisableCompression:     true,
				IdleConnTimeout:        30 * time.Second,
				MaxResponseHeaderBytes: 64 << 10,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		log:     log,
		window:  window,
		flights: newFlights(c, window),
	}, nil
}

func (r *relay) close() { r.client.CloseIdleConnections() }

// relayed answers a request from the node's IMDS.
func (s *Server) relayed(w http.ResponseWriter, r *http.Request, c *call) answer {
	if a := forwardedFor(r); a != nil {
		return *a
	}
	q := relayRequest{
		path:     rawPath(r.RequestURI),
		query:    r.URL.RawQuery,
		userData: c.settings.Relay.UserData,
	}
	for _, value := range r.Header.Values("Metadata") {
		q.metadata += value + "\x00"
	}
	switch {
	case r.Method == http.MethodGet:
		return s.relay.flights.do(r.Context(), q, func(ctx context.Context) answer {
			return s.relay.send(ctx, q, nil, "")
		})
	case r.Method == http.MethodPost && c.route.post:
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
		if err != nil {
			return invalidRequest("The request body cannot be read or is too large")
		}
		return s.relay.post(r, q, body)
	case r.Method == http.MethodPost && c.route.endpoint == endpointScheduledEvents:
		return forbidden("Pods may not start scheduled events")
	default:
		return methodNotAllowed(http.MethodGet)
	}
}

func (r *relay) post(from *http.Request, q relayRequest, body []byte) answer {
	if !r.window.take() {
		return throttled(time.Second)
	}
	return r.send(from.Context(), q, body, from.Header.Get("Content-Type"))
}

// send asks once: by POST where body is not nil, else by GET.
func (r *relay) send(ctx context.Context, q relayRequest, body []byte, contentType string) answer {
	ctx, cancel := context.WithTimeout(ctx, relayTimeout)
	defer cancel()
	a, err := r.exchange(r.request(q, body, contentType).WithContext(ctx), q)
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			r.log.Warn("node's IMDS gave no usable answer", "path", q.path, "error", err)
		}
		// The status that IMDS documents for its own failures, "retry after
		// some time": clients know no 502 or 504 from it.
		return problem(http.StatusInternalServerError, "server_error", "The instance metadata service gave no usable answer")
	}
	return a
}

func (r *relay) request(q relayRequest, body []byte, contentType string) *http.Request {
	target := r.base
	target.Path, target.RawQuery = q.path, q.query
	header := http.Header{"User-Agent": {"sidestep-agent"}}
	for value := range strings.SplitAfterSeq(q.metadata, "\x00") {
		if value != "" {
			header.Add("Metadata", strings.TrimSuffix(value, "\x00"))
		}
	}
	request := &http.Request{Method: http.MethodGet, URL: &target, Host: target.Host, Header: header}
	if body != nil {
		request.Method, request.Body = http.MethodPost, io.NopCloser(bytes.NewReader(body))
		request.ContentLength = int64(len(body))
		if contentType != "" {
			header.Set("Content-Type", contentType)
		}
	}
	return request
}

// exchange sends the request and returns what may be passed on of the
// response.
func (r *relay) exchange(request *http.Request, q relayRequest) (answer, error) {
	resp, err := r.client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	if err := usable(resp); err != nil {
		return answer{}, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return answer{}, fmt.Errorf("read response: %w", err)
	}
	if len(body) > maxDocument {
		return answer{}, fmt.Errorf("response larger than %d bytes", maxDocument)
	}
	if !q.userData {
		if body, err = withoutUserData(q.path, body); err != nil {
			return answer{}, err
		}
	}
	return answer{
		status:      resp.StatusCode,
		contentType: resp.Header.Get("Content-Type"),
		body:        body,
		retryAfter:  resp.Header.Get("Retry-After"),
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
