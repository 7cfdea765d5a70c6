package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"sigs.k8s.io/yaml"

	"github.com/sidestep-agent/sidestep/pkg/cgroups"
	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/tokens"
	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/generated"
)

// metricNote is what testdata/metrics.yaml says of a metric beside what the
// program itself knows.
type metricNote struct {
	Name  string `json:"name"`
	Moves string `json:"moves"`
	// Labels has the values of labels where the program cannot tell them.
	Labels map[string]string `json:"labels"`
}

type metricSection struct {
	Title   string       `json:"title"`
	Metrics []metricNote `json:"metrics"`
}

// metric is one as the agent registers it.
type metric struct {
	Name, Type, Help, Moves string
	Labels                  []metricLabel
}

type metricLabel struct{ Name, Values string }

// wired returns an agent with all of its parts, but no programs in the kernel
// and no cgroups.
func wired(t *testing.T) *agent {
	t.Helper()
	o := Options{
		NodeName: "node-1", Config: "../../../manifests/base/config.yaml", Kubeconfig: filepath.Join(t.TempDir(), "kubeconfig"),
		Host:     Host{Proc: "/proc", KubeletDir: t.TempDir()},
		Programs: Programs{Ports: delivery.PortRange{First: 28000, Last: 29999}, Guard: GuardFull, SecondLine: LineAuto},
		Delivery: DeliveryPod, IMDSEndpoint: "http://169.254.169.254", Cloud: string(tokens.AzurePublic),
		TokenAudience: workload.TokenAudience, StateDir: t.TempDir(),
	}
	const kubeconfig = `{clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}], contexts: [{name: c, context: {cluster: c}}], current-context: c}`
	if err := os.WriteFile(o.Kubeconfig, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &agent{
		options: o, log: slog.New(slog.DiscardHandler), registry: newRegistry("v"),
		tree: new(cgroups.Tree), hooks: new(intercept.Hooks),
	}
	a.line = newSecondLine(o, a.log, func() {})
	for _, make := range []func() error{a.makeSources, a.makeDelivery, a.makeTokens, a.makeServing, a.makeUpkeep} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// The list is that of the running agent's wiring, vectors that nothing has
// counted in included.
func TestReferenceOfMetrics(t *testing.T) {
	a := wired(t)
	described := describe(t, a.registry)
	kernel := describe(t, a.hooks)
	// The kernel's counters can be described without a kernel, not read.
	a.registry.Unregister(a.hooks)
	families, err := a.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range described {
		i := slices.IndexFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == name })
		switch {
		case i >= 0:
			m.take(families[i])
		case kernel[name] != nil && strings.HasSuffix(name, "_total"):
			m.Type = "counter"
		default:
			t.Errorf("%s is not there before something is counted in it: what asks for its increase misses the first", name)
		}
	}
	sections, other := arrange(t, described)
	generated.Check(t, "../../../docs/metrics.md", "testdata/metrics.md.tmpl", map[string]any{"Sections": sections, "Other": other})
}

func TestMetricsAreNamedAsIsUsual(t *testing.T) {
	a := wired(t)
	a.registry.Unregister(a.hooks)
	problems, err := testutil.GatherAndLint(a.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// A description can be read in this form only.
var descriptionForm = regexp.MustCompile(`^Desc\{fqName: ("(?:[^"\\]|\\.)*"), help: ("(?:[^"\\]|\\.)*"), unit: "[^"]*", constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

// describe returns the metrics of a collector by their names.
func describe(t *testing.T, c prometheus.Collector) map[string]*metric {
	t.Helper()
	descs := make(chan *prometheus.Desc)
	go func() { defer close(descs); c.Describe(descs) }()
	all := map[string]*metric{}
	for d := range descs {
		parts := descriptionForm.FindStringSubmatch(d.String())
		if parts == nil {
			t.Errorf("cannot read the description %s", d)
			continue
		}
		m := &metric{}
		var err error
		if m.Name, err = strconv.Unquote(parts[1]); err != nil {
			t.Fatal(err)
		}
		if m.Help, err = strconv.Unquote(parts[2]); err != nil {
			t.Fatal(err)
		}
		for label := range strings.SplitSeq(parts[3]+","+parts[4], ",") {
			if name, _, _ := strings.Cut(label, "="); name != "" {
				m.Labels = append(m.Labels, metricLabel{Name: name})
			}
		}
		all[m.Name] = m
	}
	return all
}

// take adds what can be read of a metric to what is described.
func (m *metric) take(f *dto.MetricFamily) {
	m.Type = strings.ToLower(f.GetType().String())
	for i, label := range m.Labels {
		var values []string
		for _, child := range f.GetMetric() {
			for _, pair := range child.GetLabel() {
				if pair.GetName() == label.Name {
					values = append(values, "`"+pair.GetValue()+"`")
				}
			}
		}
		slices.Sort(values)
		m.Labels[i].Values = strings.Join(slices.Compact(values), ", ")
	}
}

// arrange puts the agent's own metrics in the sections of the notes, and
// returns those of the Go runtime and the process by name.
func arrange(t *testing.T, all map[string]*metric) (sections []map[string]any, other []*metric) {
	t.Helper()
	for _, s := range readNotes(t) {
		var metrics []*metric
		for _, note := range s.Metrics {
			m := all[note.Name]
			if m == nil || note.Moves == "" {
				t.Errorf("the note on %s has no metric, or does not say when it moves", note.Name)
				continue
			}
			m.Moves = note.Moves
			m.override(t, note.Labels)
			metrics = append(metrics, m)
			delete(all, note.Name)
		}
		sections = append(sections, map[string]any{"Title": s.Title, "Metrics": metrics})
	}
	for name, m := range all {
		if strings.HasPrefix(name, "sidestep_") {
			t.Errorf("%s has no note in testdata/metrics.yaml", name)
		}
		other = append(other, m)
	}
	slices.SortFunc(other, func(a, b *metric) int { return strings.Compare(a.Name, b.Name) })
	return sections, other
}

func readNotes(t *testing.T) (sections []metricSection) {
	t.Helper()
	text, err := os.ReadFile("testdata/metrics.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(text, &sections); err != nil {
		t.Fatal(err)
	}
	return sections
}

// override gives labels the values that a note lists.
func (m *metric) override(t *testing.T, values map[string]string) {
	t.Helper()
	for i, label := range m.Labels {
		if v, ok := values[label.Name]; ok {
			m.Labels[i].Values = v
			delete(values, label.Name)
		}
		if m.Labels[i].Values == "" {
			t.Errorf("the values of the label %s of %s are not known: list them in testdata/metrics.yaml", label.Name, m.Name)
		}
	}
	for name := range values {
		t.Errorf("%s has no label %s", m.Name, name)
	}
}
