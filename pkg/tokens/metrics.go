package tokens

import (
	"context"
	"errors"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// outcome is how a token request was answered, as the metric shows it.
type outcome string

const (
	hit           outcome = "hit"     // from the cache
	miss          outcome = "miss"    // by an exchange of its own
	joined        outcome = "joined"  // by an exchange that was under way
	stale         outcome = "stale"   // by an old token, since no newer could be had
	refusedBefore outcome = "refused" // by a remembered refusal
	limited       outcome = "limited" // not: too many exchanges under way
	held          outcome = "held"    // not: held until the caller's time was up
)

var outcomes = []outcome{hit, miss, joined, stale, refusedBefore, limited, held}

// sentKinds are the kinds of failure that an exchange can end in.
var sentKinds = []workload.TokenErrorKind{workload.Unavailable, workload.InvalidResource, workload.Refused}

// countedCodes are the codes with a label value of their own. Which codes
// there are is for others to say, so the list bounds the metric.
var countedCodes = map[string]bool{
	"AADSTS50001":   true, // resource unknown or disabled
	"AADSTS500011":  true, // resource not in the tenant
	"AADSTS50196":   true, // client looped
	"AADSTS53003":   true, // blocked by conditional access
	"AADSTS70011":   true, // bad scope
	"AADSTS70021":   true, // no matching federated credential
	"AADSTS700016":  true, // client not in the tenant
	"AADSTS700024":  true, // assertion out of its time
	"AADSTS7000112": true, // client disabled
	"AADSTS7000215": true, // client not set up for federation
	"AADSTS700211":  true, // … for the issuer
	"AADSTS700212":  true, // … for the audience
	"AADSTS700213":  true, // … for the subject
	"AADSTS90002":   true, // tenant unknown
	"AADSTS900023":  true, // tenant malformed
	"AADSTS90006":   true, // external server to be retried
	"AADSTS90024":   true, // request budget exceeded
	"AADSTS90033":   true, // directory service down
	"AADSTS1002012": true, // bad scope
}

// Codes of failures that Entra gave none for, or one that is not counted.
const (
	codeAssertion = "assertion" // the pod's token could not be had
	codeNetwork   = "network"
	codeOther     = "other"
)

type metrics struct {
	duration *prometheus.HistogramVec
	errors   *prometheus.CounterVec
	requests *prometheus.CounterVec
	hits     prometheus.Counter // of requests: looked up once
	ahead    *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer, c *cache) *metrics {
	f := promauto.With(r)
	for _, state := range []string{circuitOpen, circuitHalfOpen} {
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "sidestep_token_circuits",
			Help:        "Tenants that nothing is sent to (open), or one exchange at a time (half-open), because they failed or asked for it.",
			ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(c.countCircuits(state)) })
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sidestep_token_cache_entries",
		Help: "Tokens in the cache.",
	}, func() float64 { return float64(c.size()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sidestep_token_cache_overdue",
		Help: "Tokens in use that have less than 5 minutes left, and should have been replaced long ago.",
	}, func() float64 { return float64(c.countOverdue()) })
	m := &metrics{
		ahead: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sidestep_token_refreshes_total",
			Help: "Exchanges ahead of a token's end, in the background.",
		}, []string{"result"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "sidestep_token_exchange_duration_seconds",
			Help:    "Time that exchanges of an assertion for a token took, discovery included.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"result"}),
		errors: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sidestep_token_exchange_errors_total",
			Help: "Failed exchanges by Entra's code, or network, assertion or other.",
		}, []string{"code"}),
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sidestep_token_cache_requests_total",
			Help: "Token requests by how the cache answered them.",
		}, []string{"outcome"}),
	}
	m.startAtZero()
	m.hits = m.requests.WithLabelValues(string(hit))
	return m
}

// startAtZero makes all children: the first event of one that appears with it
// is no increase to who asks for that.
func (m *metrics) startAtZero() {
	for _, o := range outcomes {
		m.requests.WithLabelValues(string(o))
	}
	results := []string{resultLabel(nil)}
	for _, k := range sentKinds {
		results = append(results, k.String())
	}
	for _, r := range results {
		m.duration.WithLabelValues(r)
		m.ahead.WithLabelValues(r)
	}
	for _, code := range slices.AppendSeq([]string{codeAssertion, codeNetwork, codeOther}, maps.Keys(countedCodes)) {
		m.errors.WithLabelValues(code)
	}
}

// exchanged counts an exchange that was sent.
func (m *metrics) exchanged(took time.Duration, err error) {
	m.duration.WithLabelValues(resultLabel(asTokenError(err))).Observe(took.Seconds())
}

// refreshed counts a refresh, sent or not.
func (m *metrics) refreshed(failed *workload.TokenError) {
	m.ahead.WithLabelValues(resultLabel(failed)).Inc()
}

func resultLabel(failed *workload.TokenError) string {
	if failed == nil {
		return "ok"
	}
	return failed.Kind.String()
}

func codeLabel(err *workload.TokenError, ofPod bool) string {
	var network *url.Error
	switch {
	case ofPod:
		return codeAssertion
	case countedCodes[err.Code]:
		return err.Code
	case errors.As(err, &network), errors.Is(err, context.DeadlineExceeded):
		return codeNetwork
	}
	return codeOther
}

// countOverdue returns how many tokens that somebody asked for are about to
// end. A newer one is fetched much earlier, and pods that are gone are
// forgotten: nobody could have it.
func (c *cache) countOverdue() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clocks.now()
	c.tokens.each(func(_ key, e *entry) bool {
		if e.used && e.left(now) > 0 && !e.fresh(now) {
			n++
		}
		return true
	})
	return n
}
