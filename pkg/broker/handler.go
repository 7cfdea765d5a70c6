package broker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/broker/imdspath"
	"github.com/sidestep-agent/sidestep/pkg/broker/relay"
	"github.com/sidestep-agent/sidestep/pkg/connlimit"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// serve is the HTTP handler of every connection.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if v := recover(); v != nil {
			s.panicked(v)
			panic(http.ErrAbortHandler) // has net/http close the connection
		}
	}()
	start := s.clock.Now()
	settings := s.settings.Load()
	c := &call{
		server:   s,
		conn:     connOf(r.Context()),
		route:    settings.Relay.Classify(imdspath.Raw(r.RequestURI)),
		settings: settings,
	}
	if !c.conn.slot.Set(connlimit.Serving, time.Now()) {
		panic(http.ErrAbortHandler)
	}
	a := c.answer(w, r)
	a.close = a.close || s.draining.Load()
	a.write(w)
	c.record(r.Context(), a.status, s.clock.Since(start))
}

// call is one request on its way to an answer.
type call struct {
	server   *Server
	conn     *conn
	route    imdspath.Route
	settings *Settings
	workload workload.Workload
	access   workload.Access
	// What a token request asked for or got, for the log.
	clientID string
	resource string
	err      error
}

// answer returns the request's answer. The caller's decision is looked up for
// each request: it may have changed since its connection was made.
func (c *call) answer(w http.ResponseWriter, r *http.Request) answer {
	if c.conn.refused != nil {
		return *c.conn.refused
	}
	if !c.conn.usage.begin(c.settings.Limits, c.server.clock.Now()) {
		return c.overLimit(r.Context())
	}
	defer c.conn.usage.end()
	c.conn.overLimit = false
	refusal := c.refresh()
	switch {
	case c.route.Endpoint == imdspath.TokenEndpoint && !hasMetadata(r): // a probe has this answer whoever asks
		return required()
	case refusal != nil:
		return *refusal
	case c.route.Outside:
		return pageNotFound()
	case !c.route.Identity && !hasMetadata(r):
		return metadataRequired()
	case c.route.Status == http.StatusNotFound:
		return notFound()
	case c.route.Status != 0:
		return forbidden("This path is not served to pods")
	case c.route.Endpoint == imdspath.TokenEndpoint:
		return c.token(w, r)
	case c.route.Endpoint == imdspath.InfoEndpoint:
		return c.info(r)
	default:
		return c.relayed(w, r)
	}
}

// overLimit returns the answer to a request that is over its pod's limits. From
// the second in a row on a connection it comes after a pause.
func (c *call) overLimit(ctx context.Context) answer {
	if c.conn.overLimit {
		pause := time.NewTimer(overLimitPause)
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-ctx.Done():
		case <-c.server.life.Done():
		}
	}
	c.conn.overLimit = true
	return throttled(time.Second)
}

// refresh puts the caller's workload as it is now in the call. It returns the
// answer to a caller who is not let in any more.
func (c *call) refresh() *answer {
	w, d, err := c.server.attester.Current(c.conn.caller)
	if a := notLetIn(d, err); a != nil {
		return a
	}
	c.workload, c.access = w, d.Access
	return nil
}

// notLetIn returns the answer to a caller whom the decision, or the error of
// asking for it, does not let in; nil if it is let in.
func notLetIn(d workload.Decision, err error) *answer {
	if err == nil && d.Verdict == workload.Steer {
		return nil
	}
	var a answer
	switch {
	case isUnknown(err):
		a = tryAgain()
	case err != nil:
		a = forbidden("The pod that is calling is gone")
	case d.Verdict == workload.Deny:
		a = forbidden("The pod that is calling may not use the instance metadata service")
	default:
		// The kernel's verdict leads its next connection where it belongs.
		a = tryAgain()
	}
	return &a
}

// info answers /metadata/identity/info.
func (c *call) info(r *http.Request) answer {
	if a := c.identityGate(r); a != nil {
		return *a
	}
	if r.Method != http.MethodGet {
		return methodNotAllowed(http.MethodGet)
	}
	tenant := c.workload.TenantID
	if tenant == "" {
		tenant = c.server.tenantID
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
func (c *call) identityGate(r *http.Request) *answer {
	if !hasMetadata(r) {
		a := required()
		return &a
	}
	if a := forwardedFor(r); a != nil {
		return a
	}
	if c.access != workload.Identity {
		a := invalidRequest(identityNotFound)
		return &a
	}
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

// token answers the token path.
func (c *call) token(w http.ResponseWriter, r *http.Request) answer {
	if a := c.identityGate(r); a != nil {
		return *a
	}
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		return methodNotAllowed("GET, POST")
	}
	form := ""
	if r.Method == http.MethodPost && isForm(r.Header.Get("Content-Type")) {
		var err error
		if form, err = c.body(w, r); err != nil {
			c.err = err
			return invalidRequest(err.Error())
		}
	}
	request, err := tokenParams(r.URL.RawQuery, form)
	if err != nil {
		c.err = err
		return invalidRequest(err.Error())
	}
	c.clientID, c.resource = request.ClientID, request.Resource
	token, ok := c.server.tokens.Cached(c.workload, request)
	if !ok {
		var refusal *answer
		if token, refusal = c.exchange(r.Context(), request); refusal != nil {
			return *refusal
		}
	}
	// The pod may have ended, or got another decision, while Entra was asked.
	if a := c.refresh(); a != nil {
		return *a
	}
	if c.access != workload.Identity {
		return invalidRequest(identityNotFound)
	}
	c.clientID = token.ClientID
	return answer{
		status: http.StatusOK, contentType: contentJSON,
		body: issuedAs(token, request.Resource).at(c.server.clock.Now()).body,
	}
}

// exchange gets a token that is not in the cache, or the answer to say why it
// cannot be had.
func (c *call) exchange(ctx context.Context, request workload.TokenRequest) (workload.Token, *answer) {
	ctx, cancel := context.WithTimeout(ctx, max(hold-c.conn.waited, exchangeTime))
	defer cancel()
	c.conn.waited = 0 // requests of a connection come one after another
	if a := c.awaitIdentity(ctx, request); a != nil {
		return workload.Token{}, a
	}
	token, err := c.server.tokens.Token(ctx, c.workload, request)
	if err != nil {
		c.err = err
		a := tokenFailure(err, request)
		return workload.Token{}, &a
	}
	return token, nil
}

// identityInterval is how often it is looked whether the API server has reported
// what says which identity is meant.
const identityInterval = 100 * time.Millisecond

// awaitIdentity waits until it is known which identity the request means, or ctx
// ends: that takes the caller's service account and, where the pod's containers
// differ in their default, the name of the one that calls. What is not known in
// the end is the token engine's to answer.
func (c *call) awaitIdentity(ctx context.Context, request workload.TokenRequest) *answer {
	known := func() bool {
		w := &c.workload
		return w.ServiceAccountSeen && (request.Selects() || !w.ContainerUnknown)
	}
	if known() {
		return nil
	}
	tick := c.server.clock.NewTicker(identityInterval)
	defer tick.Stop()
	for !known() {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C():
		}
		if a := c.refresh(); a != nil {
			return a
		}
	}
	return nil
}

// relayed answers a request from the node's IMDS.
func (c *call) relayed(w http.ResponseWriter, r *http.Request) answer {
	if a := forwardedFor(r); a != nil {
		return *a
	}
	kind := documents[c.route.Endpoint]
	q := relay.Request{
		Path: c.route.Path, Query: c.route.Query(r.URL.RawQuery), UserData: c.settings.Relay.UserData,
		Share: kind.share, Timeout: kind.timeout,
	}
	switch {
	case r.Method == http.MethodGet:
	case r.Method == http.MethodPost && c.route.Post:
		body, err := c.body(w, r)
		if err != nil {
			return invalidRequest(err.Error())
		}
		q.Post, q.Body, q.ContentType = true, body, r.Header.Get("Content-Type")
	case r.Method == http.MethodPost && c.route.Endpoint == imdspath.ScheduledEvents:
		return forbidden("Pods may not start scheduled events")
	default:
		return methodNotAllowed(http.MethodGet)
	}
	got, err := c.server.relay.Do(r.Context(), c.conn.caller.PodUID, q)
	if busy := (*relay.BusyError)(nil); errors.As(err, &busy) {
		return throttled(busy.RetryAfter)
	} else if errors.Is(err, relay.ErrUnusable) {
		// The status that IMDS documents for its own failures, "retry after
		// some time": clients know no 502 or 504 from it.
		return problem(http.StatusInternalServerError, "server_error", "The instance metadata service gave no usable answer")
	} else if err != nil {
		return throttled(time.Second) // is not read: the client has left
	}
	return answer{status: got.Status, contentType: got.ContentType, body: got.Body, retryAfter: got.RetryAfter}
}

// body returns the request's body. An error is a *badParamsError. While the
// body arrives the connection counts as one whose request does.
func (c *call) body(w http.ResponseWriter, r *http.Request) (string, error) {
	if !c.conn.slot.Set(connlimit.Reading, time.Now()) {
		return "", badf("The request took too long")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if !c.conn.slot.Set(connlimit.Serving, time.Now()) {
		return "", badf("The request took too long")
	}
	if tooBig := (*http.MaxBytesError)(nil); errors.As(err, &tooBig) {
		return "", badf("The request body is larger than %d bytes", maxForm)
	} else if err != nil {
		return "", badf("The request body cannot be read")
	}
	return string(body), nil
}

// record logs and counts an answer. A token request that brought no token is
// one line at info, within the pod's budget, everything else one at debug: the
// token engine logs what was issued to whom, once for each pod.
func (c *call) record(ctx context.Context, status int, took time.Duration) {
	s := c.server
	s.metrics.observe(c.route.Endpoint, status, took)
	level, skipped := slog.LevelDebug, 0
	if c.route.Endpoint == imdspath.TokenEndpoint && status != http.StatusOK {
		level, skipped = c.lineLevel()
	}
	if !s.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("event", "imds_request"),
		slog.String("namespace", c.workload.Namespace),
		slog.String("service_account", c.workload.ServiceAccount),
		slog.String("pod", c.workload.PodName),
		slog.String("pod_uid", c.conn.caller.PodUID),
		slog.String("endpoint", string(c.route.Endpoint)),
		slog.Int("status", status),
		slog.String("client_id", c.clientID),
		slog.String("resource", c.resource),
		slog.Int64("duration_ms", took.Milliseconds()),
	}
	if c.err != nil {
		attrs = append(attrs, slog.Any("err", c.err))
	}
	if skipped > 0 {
		attrs = append(attrs, slog.Int("not_logged", skipped))
	}
	s.log.LogAttrs(ctx, level, "IMDS request", attrs...)
}

// lineLevel returns info, and how many lines of the pod were not logged since
// its last one, or debug where the pod's budget or that of all is spent.
func (c *call) lineLevel() (level slog.Level, skipped int) {
	now := c.server.clock.Now()
	skipped, ok := c.conn.usage.lines.spend(now)
	if !ok {
		return slog.LevelDebug, 0
	}
	if _, ok := c.server.lines.spend(now); !ok {
		return slog.LevelDebug, 0
	}
	return slog.LevelInfo, skipped
}
