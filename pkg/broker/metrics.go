package broker

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sidestep-agent/sidestep/pkg/broker/imdspath"
	"github.com/sidestep-agent/sidestep/pkg/connlimit"
)

type metrics struct {
	duration   *prometheus.HistogramVec
	token      prometheus.Observer // of duration: tokens issued, looked up once
	turnedAway prometheus.Counter
	closed     *prometheus.CounterVec
	panics     prometheus.Counter
	exposed    *prometheus.CounterVec
}

// The results of connections that neighbours could read.
const (
	exposedRetry   = "retry"
	exposedRefused = "refused"
)

// evictable are the states of connections that are closed to make room.
var evictable = map[connlimit.State]string{connlimit.Idle: "idle", connlimit.Reading: "reading", connlimit.Held: "held"}

func newMetrics(r prometheus.Registerer, conns *connlimit.Table) (*metrics, error) {
	m := &metrics{
		turnedAway: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sidestep_imds_connections_turned_away_total",
			Help: "Connections that were answered 429 or closed when they were made, since a bound was reached.",
		}),
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sidestep_imds_connections_closed_total",
			Help: "Connections that were closed to make room for others, by what they were being used for.",
		}, []string{"state"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sidestep_imds_panics_total",
			Help: "Panics while a connection was served; each has ended that connection alone.",
		}),
		exposed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sidestep_exposed_connections_total",
			Help: "Connections of steered pods that a neighbour could have read, by what their callers were answered: " +
				"to try again at their own listener, or why they are not served.",
		}, []string{"result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sidestep_imds_request_duration_seconds",
			Help: "Time to answer a request to the instance metadata service.",
			// From a cached token to a held request.
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"endpoint", "code"})}
	open := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sidestep_imds_connections",
		Help: "Connections to the instance metadata service that are open.",
	}, func() float64 { return float64(conns.Len()) })
	for _, c := range []prometheus.Collector{m.duration, m.turnedAway, m.closed, m.panics, m.exposed, open} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	for _, label := range evictable {
		m.closed.WithLabelValues(label)
	}
	for _, e := range imdspath.Endpoints { // so that each is there from the start
		status := http.StatusOK
		if e == imdspath.Refused {
			status = http.StatusForbidden
		}
		m.duration.WithLabelValues(string(e), strconv.Itoa(status))
	}
	for _, result := range []string{exposedRetry, exposedRefused} {
		m.exposed.WithLabelValues(result)
	}
	m.token = m.of(imdspath.TokenEndpoint, http.StatusOK)
	return m, nil
}

func (m *metrics) of(e imdspath.Endpoint, status int) prometheus.Observer {
	return m.duration.WithLabelValues(string(e), strconv.Itoa(status))
}

func (m *metrics) observe(e imdspath.Endpoint, status int, took time.Duration) {
	o := m.token
	if e != imdspath.TokenEndpoint || status != http.StatusOK {
		o = m.of(e, status)
	}
	o.Observe(took.Seconds())
}

// evicted counts a connection that was closed to make room.
func (m *metrics) evicted(was connlimit.State) { m.closed.WithLabelValues(evictable[was]).Inc() }
