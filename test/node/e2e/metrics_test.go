package e2e

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// A row of docs/metrics.md, of the agent's own metrics.
var metricRow = regexp.MustCompile("(?m)^\\| `(sidestep_[a-z_]+)` \\| ([a-z]+) \\| (.*?) \\| ")

var labelOfRow = regexp.MustCompile("(?:^|<br>)`([a-z]+)`")

// The reference is made without a kernel; this is what the agent on a node
// really says.
func TestMetricsAreThoseOfTheReference(t *testing.T) {
	needNode(t)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(inNode(t, "curl", "--silent", "--fail", "http://127.0.0.1:9402/metrics")))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, row := range metricRow.FindAllStringSubmatch(string(text), -1) {
		name, kind, labels := row[1], row[2], labelOfRow.FindAllStringSubmatch(row[3], -1)
		listed[name] = true
		f := families[name]
		if f == nil || strings.ToLower(f.GetType().String()) != kind {
			t.Errorf("%s is %v, want a %s", name, f.GetType(), kind)
			continue
		}
		var want []string
		for _, l := range labels {
			want = append(want, l[1])
		}
		slices.Sort(want)
		for _, m := range f.GetMetric() {
			if got := labelNames(m); !slices.Equal(got, want) {
				t.Errorf("%s has the labels %v, want %v", name, got, want)
			}
		}
	}
	for name := range families {
		if strings.HasPrefix(name, "sidestep_") && !listed[name] {
			t.Errorf("%s is not in docs/metrics.md", name)
		}
	}
	if len(listed) < 15 {
		t.Errorf("%d metrics were read from docs/metrics.md", len(listed))
	}
}

func labelNames(m *dto.Metric) (names []string) {
	for _, l := range m.GetLabel() {
		names = append(names, l.GetName())
	}
	slices.Sort(names)
	return names
}
