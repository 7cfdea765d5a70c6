package broker

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// call is one request on its way to an answer.
type call struct {
	peer     *peer
	route    route
	settings *Settings
	workload workload.Workload
	access   workload.Access
	// What a token request asked for or got, for the log.
	clientID string
	resource string
	err      error
}

// serve is the HTTP handler of every connection.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	start := s.clock.Now()
	settings := s.settings.Load()
	c := &call{
		peer:     peerOf(r.Context()),
		route:    classify(rawPath(r.RequestURI), settings.Relay),
		settings: settings,
	}
	a := s.answer(w, r, c)
	a.close = a.close || s.leaving.Load()
	a.write(w)
	s.record(r.Context(), c, a.status, s.clock.Since(start))
}

// answer returns the request's answer. The caller's decision is asked for
// anew on each request: it may have changed since its connection was made.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, c *call) answer {
	if c.peer.refused != nil {
		return *c.peer.refused
	}
	if !c.peer.usage.begin(c.settings.Limits, s.clock.Now()) {
		return throttled(time.Second)
	}
	defer c.peer.usage.end()
	refusal := s.refresh(c)
	switch {
	case c.route.endpoint == endpointToken && !hasMetadata(r): // a probe: told the same whoever asks
		return required()
	case refusal != nil:
		return *refusal
	case c.route.status == http.StatusNotFound:
		return notFound()
	case c.route.status != 0:
		return forbidden("This path is not served to pods")
	case c.route.endpoint == endpointToken:
		return s.token(w, r, c)
	case c.route.endpoint == endpointInfo:
		return s.info(r, c)
	default:
		return s.relayed(w, r, c)
	}
}

// refresh puts the caller's workload as it is now in the call. It returns the
// answer to a caller who is let in no more.
func (s *Server) refresh(c *call) *answer {
	w, d, err := s.attester.Current(c.peer.caller)
	if a := turnedDown(d, err); a != nil {
		return a
	}
	c.workload, c.access = w, d.Access
	return nil
}

// forwardedFor is IMDS's own check against requests that a proxy was talked
// into making.
func forwardedFor(r *http.Request) *answer {
	if _, ok := r.Header["X-Forwarded-For"]; !ok {
		return nil
	}
	a := invalidRequest("Header 'X-Forwarded-For' is not allowed")
	return &a
}

// info answers /metadata/identity/info.
func (s *Server) info(r *http.Request, c *call) answer {
	if a := identityGate(r, c.access); a != nil {
		return *a
	}
	if r.Method != http.MethodGet {
		return methodNotAllowed(http.MethodGet)
	}
	tenant := c.workload.TenantID
	if tenant == "" {
		tenant = s.tenantID
	}
	if tenant == "" {
		return notFound()
	}
	return answerJSON(http.StatusOK, struct {
		TenantID string `json:"tenantId"`
	}{tenant})
}

// identityGate returns the refusal of a request on an identity path that
// lacks what every such request needs; nil if it lacks nothing.
func identityGate(r *http.Request, access workload.Access) *answer {
	if !hasMetadata(r) {
		a := required()
		return &a
	}
	if a := forwardedFor(r); a != nil {
		return a
	}
	if access != workload.Identity {
		a := invalidRequest(identityNotFound)
		return &a
	}
	return nil
}

// record logs and counts an answer. A token request that brought no token is
// one line at info, everything else one at debug: what was issued to whom is
// the token engine's to say, once for each pod.
func (s *Server) record(ctx context.Context, c *call, status int, took time.Duration) {
	s.metrics.observe(c.route.endpoint, status, took)
	level := slog.LevelDebug
	if c.route.endpoint == endpointToken && status != http.StatusOK {
		level = slog.LevelInfo
	}
	if !s.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("event", "imds_request"),
		slog.String("namespace", c.workload.Namespace),
		slog.String("service_account", c.workload.ServiceAccount),
		slog.String("pod", c.workload.PodName),
		slog.String("pod_uid", c.peer.caller.PodUID),
		slog.String("endpoint", string(c.route.endpoint)),
		slog.Int("status", status),
		slog.String("client_id", c.clientID),
		slog.String("resource", c.resource),
		slog.Int64("duration_ms", took.Milliseconds()),
	}
	if c.err != nil {
		attrs = append(attrs, slog.Any("err", c.err))
	}
	s.log.LogAttrs(ctx, level, "IMDS request", attrs...)
}
