package tokens

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/sidestep-agent/sidestep/pkg/tokens/aadsts"
	"github.com/sidestep-agent/sidestep/pkg/tokens/entra"
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
	limited       outcome = "limited" // not: more than the pod or its service account may ask for
	heldBack      outcome = "held"    // not: held until the caller's time was up
)

var outcomes = []outcome{hit, miss, joined, stale, refusedBefore, limited, heldBack}

// sentKinds are the kinds of failure that an exchange can end in.
var sentKinds = []workload.TokenErrorKind{workload.Unavailable, workload.InvalidResource, workload.Refused}

// Codes of failures that Entra gave none for, or one that is not counted.
const (
	codeAssertion = "assertion" // the pod's token could not be had
	codeNetwork   = "network"
	codePanic     = "panic" // the agent's own failure
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
			Help:        "Tenants, or clients of one, that nothing is sent to (open), or one exchange at a time (half-open), because they failed or Entra asked for it.",
			ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(countCircuits(c.openCircuits(), state)) })
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sidestep_token_cache_entries",
		Help: "Tokens in the cache.",
	}, func() float64 { return float64(c.size()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sidestep_token_cache_overdue",
		Help: "Tokens in use that have less than 5 minutes left, and should have been replaced long ago.",
	}, func() float64 { return float64(c.overdue()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sidestep_token_exchanges_in_flight",
		Help: "Exchanges under way.",
	}, func() float64 { return float64(c.underWay()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sidestep_token_exchange_budget",
		Help: "New exchanges that are left of the node's budget.",
	}, c.budgetLeft)
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
			Help: "Failed exchanges by Entra's code, or network, assertion, panic or other.",
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
	for _, code := range []string{codeAssertion, codeNetwork, codePanic, codeOther} {
		m.errors.WithLabelValues(code)
	}
	for row := range aadsts.All() {
		m.errors.WithLabelValues(row.Code)
	}
}

func resultLabel(failed *workload.TokenError) string {
	if failed == nil {
		return "ok"
	}
	return failed.Kind.String()
}

// codeLabel returns the failure's code if that is in the table, which bounds
// the metric: which codes there are is for others to say.
func codeLabel(err *workload.TokenError, unsent bool) string {
	if errors.Is(err, errPanic) {
		return codePanic
	}
	if unsent {
		return codeAssertion
	}
	if _, ok := aadsts.Lookup(err.Code); ok {
		return err.Code
	}
	if entra.Unreachable(err) {
		return codeNetwork
	}
	return codeOther
}

func countCircuits(all []Circuit, state string) (n int) {
	for _, c := range all {
		if c.State == state {
			n++
		}
	}
	return n
}
