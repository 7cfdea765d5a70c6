package monitoring

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
)

// metric is one of docs/metrics.md.
type metric struct {
	kind   string
	labels map[string][]string // with their values; nil: any
}

var (
	metricRow = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([a-z]+) \\| (.*?) \\| ")
	quoted    = regexp.MustCompile("`([^`]+)`")
)

// metrics returns what the reference lists, by name.
var metrics = sync.OnceValue(func() map[string]metric {
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		panic(err)
	}
	all := map[string]metric{}
	for _, row := range metricRow.FindAllStringSubmatch(string(text), -1) {
		m := metric{kind: row[2], labels: map[string][]string{}}
		for cell := range strings.SplitSeq(row[3], "<br>") {
			var words []string
			for _, w := range quoted.FindAllStringSubmatch(cell, -1) {
				words = append(words, w[1])
			}
			if len(words) > 0 {
				m.labels[words[0]] = words[1:]
			}
		}
		all[row[1]] = m
	}
	return all
})

// targetLabels are what scraping adds, as podmonitor.yaml has it.
var targetLabels = []string{"job", "instance", "node", "namespace"}

// others' metrics, with the labels that are used of them.
var foreign = map[string]metric{
	"up": {kind: "gauge"},
	"kube_daemonset_status_desired_number_scheduled": {kind: "gauge", labels: map[string][]string{"namespace": nil, "daemonset": nil}},
	"kube_daemonset_status_number_available":         {kind: "gauge", labels: map[string][]string{"namespace": nil, "daemonset": nil}},
}

func TestTheReferenceIsRead(t *testing.T) {
	all := metrics()
	if len(all) < 40 {
		t.Errorf("%d metrics are read, want the runtime's and 19 of the agent", len(all))
	}
	m := all["sidestep_attest_failures_total"]
	if m.kind != "counter" || !slices.Contains(m.labels["reason"], "ambiguous") {
		t.Errorf("sidestep_attest_failures_total is read as %+v", m)
	}
	if m := all["sidestep_imds_request_duration_seconds"]; m.labels["code"] == nil == (len(m.labels["endpoint"]) == 8) {
		t.Errorf("sidestep_imds_request_duration_seconds is read as %+v", m)
	}
}

// find returns the metric of a series' name.
func find(name string) (metric, bool) {
	if m, ok := foreign[name]; ok {
		return m, true
	}
	m, ok := metrics()[name]
	if ok && m.kind != "histogram" {
		return m, true
	}
	for _, suffix := range []string{"_bucket", "_count", "_sum"} {
		base, found := strings.CutSuffix(name, suffix)
		if m, ok := metrics()[base]; found && ok && m.kind == "histogram" {
			return m, true
		}
	}
	return metric{}, false
}

// checkExpression returns what is wrong with an expression: series that the
// agent does not have, labels that they do not bear, values that those never
// take.
func checkExpression(expr string) (problems []string) {
	e, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		return []string{err.Error()}
	}
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.VectorSelector:
			problems = append(problems, checkSelector(n)...)
		case *parser.AggregateExpr:
			for _, label := range n.Grouping {
				problems = append(problems, checkGrouping(n.Expr, label)...)
			}
		case *parser.Call:
			problems = append(problems, checkCall(n)...)
		}
		return nil
	})
	return problems
}

func checkSelector(s *parser.VectorSelector) (problems []string) {
	m, ok := find(s.Name)
	if !ok {
		return []string{fmt.Sprintf("the agent has no series %s", s.Name)}
	}
	for _, matcher := range s.LabelMatchers {
		if matcher.Name == model.MetricNameLabel || slices.Contains(targetLabels, matcher.Name) {
			continue
		}
		values, ok := m.labels[matcher.Name]
		switch {
		case !ok:
			problems = append(problems, fmt.Sprintf("%s has no label %s", s.Name, matcher.Name))
		case len(values) > 0 && !slices.ContainsFunc(values, matcher.Matches):
			problems = append(problems, fmt.Sprintf("%s never matches %s", s.Name, matcher))
		case len(values) > 0 && words.MatchString(matcher.Value):
			for word := range strings.SplitSeq(matcher.Value, "|") {
				if !slices.Contains(values, word) {
					problems = append(problems, fmt.Sprintf("%s of %s is never %s", matcher.Name, s.Name, word))
				}
			}
		}
	}
	return problems
}

// words are alternatives that are spelt out.
var words = regexp.MustCompile(`^\w+(\|\w+)*$`)

func checkGrouping(of parser.Expr, label string) (problems []string) {
	for _, selectors := range parser.ExtractSelectors(of) {
		for _, matcher := range selectors {
			if matcher.Name != model.MetricNameLabel {
				continue
			}
			m, _ := find(matcher.Value)
			_, has := m.labels[label]
			if !has && !slices.Contains(targetLabels, label) && (label != "le" || !strings.HasSuffix(matcher.Value, "_bucket")) {
				problems = append(problems, fmt.Sprintf("%s has no label %s to group by", matcher.Value, label))
			}
		}
	}
	return problems
}

// checkCall wants rates of what only grows, and of nothing else.
func checkCall(c *parser.Call) (problems []string) {
	if c.Func.Name != "rate" && c.Func.Name != "increase" {
		return nil
	}
	for _, selectors := range parser.ExtractSelectors(c) {
		for _, matcher := range selectors {
			if m, ok := find(matcher.Value); matcher.Name == model.MetricNameLabel && ok && m.kind == "gauge" {
				problems = append(problems, fmt.Sprintf("%s of the gauge %s", c.Func.Name, matcher.Value))
			}
		}
	}
	return problems
}

func TestWrongExpressionsAreFound(t *testing.T) {
	for expr, want := range map[string]int{
		`sum by (node, code) (rate(sidestep_token_exchange_errors_total{code=~"AADSTS.+",node="a"}[5m]))`: 0,
		`histogram_quantile(0.9, sum by (le) (rate(sidestep_imds_request_duration_seconds_bucket[5m])))`:  0,
		`sidestep_token_exchange_errors`:                              1,
		`sidestep_imds_request_duration_seconds`:                      1, // a histogram has no series of its own name
		`sidestep_token_circuits{state="closed"}`:                     1,
		`sidestep_token_circuits{tenant="x"}`:                         1,
		`sidestep_imds_request_duration_seconds_count{code="200"}`:    0,
		`sum by (pod) (sidestep_pods)`:                                1,
		`sum by (le) (rate(sidestep_guard_drops_total[5m]))`:          1,
		`rate(sidestep_pods[5m])`:                                     1,
		`sum(sidestep_pods) by (verdict) / sum(nothing) by (nothing)`: 2,
		`sidestep_pods{`: 1,
		`sidestep_attest_failures_total{reason=~"no_flow|no_such_thing"}`: 1,
	} {
		if got := checkExpression(expr); len(got) != want {
			t.Errorf("%s: %q, want %d problems", expr, got, want)
		}
	}
}
