package main

import (
	"bytes"
	"context"
	"fmt"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// scrape is what the apiserver's /metrics said once.
type scrape map[string]*dto.MetricFamily

func (c *controlPlane) scrape(ctx context.Context) (scrape, error) {
	text, err := c.admin.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("scrape the apiserver: %w", err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(bytes.NewReader(text))
}

// sum adds up the series of a counter or gauge that have all the labels.
func (s scrape) sum(name string, labels map[string]string) float64 {
	total := 0.0
	for _, m := range s[name].GetMetric() {
		if hasLabels(m, labels) {
			total += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return total
}

func hasLabels(m *dto.Metric, labels map[string]string) bool {
	found := 0
	for _, l := range m.GetLabel() {
		if want, ok := labels[l.GetName()]; ok && want == l.GetValue() {
			found++
		}
	}
	return found == len(labels)
}

// openWatches returns how many watches of a resource are open.
func (s scrape) openWatches(resource string) int {
	return int(s.sum("apiserver_longrunning_requests", map[string]string{"verb": "WATCH", "resource": resource}))
}

// requests returns how many requests for pods and service accounts were
// answered, but for watches: they are counted when they end.
func (s scrape) requests() float64 {
	n := 0.0
	for _, resource := range []string{"pods", "serviceaccounts"} {
		for _, verb := range []string{"LIST", "GET", "PUT", "PATCH", "POST", "DELETE"} {
			n += s.sum("apiserver_request_total", map[string]string{"resource": resource, "verb": verb})
		}
	}
	return n
}
