package broker

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	duration *prometheus.HistogramVec
	token    prometheus.Observer // of duration: tokens issued, looked up once
	exposed  *prometheus.CounterVec
}

// The results of connections that neighbours could read.
const (
	exposedRetry   = "retry"
	exposedRefused = "refused"
)

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "sidestep_imds_request_duration_seconds",
		Help: "Time to answer a request to the instance metadata service.",
		// From a cached token to a held request.
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"endpoint", "code"})}
	if err := r.Register(m.duration); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	for _, e := range endpoints { // so that each is there from the start
		status := http.StatusOK
		if e == endpointRefused {
			status = http.StatusForbidden
		}
		m.duration.WithLabelValues(string(e), strconv.Itoa(status))
	}
	m.exposed = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sidestep_exposed_connections_total",
		Help: "Connections of steered pods that a neighbour could have read, by what their callers were told: " +
			"to come again to their own listener, or why they are not served.",
	}, []string{"result"})
	if err := r.Register(m.exposed); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	for _, result := range []string{exposedRetry, exposedRefused} {
		m.exposed.WithLabelValues(result)
	}
	m.token = m.of(endpointToken, http.StatusOK)
	return m, nil
}

func (m *metrics) of(e endpoint, status int) prometheus.Observer {
	return m.duration.WithLabelValues(string(e), strconv.Itoa(status))
}

func (m *metrics) observe(e endpoint, status int, took time.Duration) {
	o := m.token
	if e != endpointToken || status != http.StatusOK {
		o = m.of(e, status)
	}
	o.Observe(took.Seconds())
}
