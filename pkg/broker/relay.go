package broker

import (
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

// Bounds of one exchange with the node's IMDS.
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
	flights *flights
}

// relayRequest is what is sent to the node's IMDS, and all of it: nothing goes
// out in the caller's own spelling but the body and its type, and two equal
// GETs have the same answer.
type relayRequest struct {
	path     string // as route has it
	query    string // as plainQuery has it
	metadata bool   // with "Metadata: true"
	userData bool   // leave user data in
	// Of a POST alone.
	post        bool
	body        string
	contentType string
}

// newRelayRequest returns what of a caller's request is sent, as a GET.
func newRelayRequest(from *http.Request, to route, userData bool) relayRequest {
	return relayRequest{
		path:     to.path,
		query:    plainQuery(from.URL.RawQuery),
		metadata: hasMetadata(from),
		userData: userData,
	}
}

func newRelay(endpoint string, c clock.Clock, log *slog.Logger) (*relay, error) {
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
	r := &relay{
		base:    url.URL{Scheme: u.Scheme, Host: u.Host},
		address: net.JoinHostPort(u.Hostname(), port),
		client: &http.Client{
			// No proxy: IMDS is this machine's own. No compression: what
			// comes back is read for user data. No connection is used again:
			// net/http repeats a request on one that breaks, past the window.
			Transport: &http.Transport{
				DisableCompression:     true,
				DisableKeepAlives:      true,
				MaxResponseHeaderBytes: 64 << 10,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		log: log,
	}
	r.flights = newFlights(c, r.send)
	return r, nil
}

// relayed answers a request from the node's IMDS.
func (s *Server) relayed(w http.ResponseWriter, r *http.Request, c *call) answer {
	if a := forwardedFor(r); a != nil {
		return *a
	}
	q := newRelayRequest(r, c.route, c.settings.Relay.UserData)
	switch {
	case r.Method == http.MethodGet:
	case r.Method == http.MethodPost && c.route.post:
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
		if err != nil {
			return invalidRequest("The request body cannot be read or is too large")
		}
		q.post, q.body, q.contentType = true, string(body), r.Header.Get("Content-Type")
	case r.Method == http.MethodPost && c.route.endpoint == endpointScheduledEvents:
		return forbidden("Pods may not start scheduled events")
	default:
		return methodNotAllowed(http.MethodGet)
	}
	return s.relay.flights.do(r.Context(), c.peer.caller.PodUID, q)
}

// send asks once.
func (r *relay) send(ctx context.Context, q relayRequest) answer {
	ctx, cancel := context.WithTimeout(ctx, relayTimeout)
	defer cancel()
	a, err := r.exchange(r.request(q).WithContext(ctx), q)
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			r.log.Warn("node's IMDS gave no usable answer", "path", q.path, "err", err)
		}
		// The status that IMDS documents for its own failures, "retry after
		// some time": clients know no 502 or 504 from it.
		return problem(http.StatusInternalServerError, "server_error", "The instance metadata service gave no usable answer")
	}
	return a
}

func (r *relay) request(q relayRequest) *http.Request {
	target := r.base
	target.Path, target.RawQuery = q.path, q.query
	header := http.Header{"User-Agent": {"sidestep-agent"}}
	if q.metadata {
		header.Set("Metadata", "true")
	}
	request := &http.Request{Method: http.MethodGet, URL: &target, Host: target.Host, Header: header}
	if q.post {
		request.Method, request.Body = http.MethodPost, io.NopCloser(strings.NewReader(q.body))
		request.ContentLength = int64(len(q.body))
		if q.contentType != "" {
			header.Set("Content-Type", q.contentType)
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
