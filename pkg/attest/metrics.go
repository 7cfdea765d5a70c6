package attest

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// reasons are all values of the metric's label.
var reasons = []struct {
	err   error
	label string
}{
	{ErrNoFlow, "no_flow"},
	{ErrAmbiguous, "ambiguous"},
	{ErrGone, "gone"},
	{ErrNotPod, "not_pod"},
	{ErrNoContainer, "no_container"},
	{ErrUnknownPod, "unknown_pod"},
	{ErrExhausted, "exhausted"},
	{ErrNotEstablished, "not_established"},
}

func newFailures(r prometheus.Registerer) *prometheus.CounterVec {
	failures := promauto.With(r).NewCounterVec(prometheus.CounterOpts{
		Name: "sidestep_attest_failures_total",
		Help: "Connections refused because it could not be proven which pod made them, by reason.",
	}, []string{"reason"})
	for _, r := range reasons { // so that each is there, at 0, from the start
		failures.WithLabelValues(r.label)
	}
	return failures
}

// reasonOf returns the label of an error of Attest.
func reasonOf(err error) string {
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.label
		}
	}
	return "other"
}
