package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/sidestep-agent/sidestep/pkg/config"
)

const chartDir = "../../charts/sidestep-agent"

// With values of its own the chart is the base, and with those that ci/ has
// for each overlay it is that overlay: the same objects, field by field.
func TestChartIsTheManifests(t *testing.T) {
	kustomized := rendered(t)
	for name, values := range exampleValues(t) {
		want, ok := kustomized[name]
		if !ok {
			t.Errorf("ci/%s-values.yaml is for no overlay", name)
			continue
		}
		got := helmObjects(t, values)
		if diff := cmp.Diff(settings(t, want), settings(t, got), emptyIsNil); diff != "" {
			t.Errorf("%s, configuration (-kustomize +helm):\n%s", name, diff)
		}
		if diff := cmp.Diff(byIdentity(t, want), byIdentity(t, got)); diff != "" {
			t.Errorf("%s (-kustomize +helm):\n%s", name, diff)
		}
	}
}

// Whoever adds an overlay adds the chart's values for it.
func TestEachOverlayHasValues(t *testing.T) {
	want := append([]string{"base"}, overlays...)
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(exampleValues(t)))); diff != "" {
		t.Errorf("ci/<overlay>-values.yaml (-overlays +files):\n%s", diff)
	}
}

// Each field of the configuration is in values.yaml with its default, so that
// it can be seen there and set alone.
func TestValuesHaveTheWholeConfiguration(t *testing.T) {
	c, err := loader.LoadDir(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	data, err := yaml.Marshal(config.Default())
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]any
	if err := yaml.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	delete(want, "apiVersion")
	delete(want, "kind")
	got, ok := c.Values["config"].(map[string]any)
	if !ok {
		t.Fatalf("config is %T", c.Values["config"])
	}
	if diff := cmp.Diff(fields("", want), fields("", got)); diff != "" {
		t.Errorf("(-configuration +values):\n%s", diff)
	}
}

// fields lists the names of all members, those of lists left out.
func fields(prefix string, v map[string]any) []string {
	var all []string
	for name, member := range v {
		all = append(all, prefix+name)
		if below, ok := member.(map[string]any); ok {
			all = append(all, fields(prefix+name+".", below)...)
		}
	}
	slices.Sort(all)
	return all
}

// exampleValues are the values that ci/ has, by overlay, and none for the base.
func exampleValues(t *testing.T) map[string]map[string]any {
	t.Helper()
	const suffix = "-values.yaml"
	paths, err := filepath.Glob(filepath.Join(chartDir, "ci", "*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]map[string]any{"base": {}}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(path), suffix)] = parseValues(t, string(data))
	}
	return all
}

func parseValues(t *testing.T, text string) map[string]any {
	t.Helper()
	values, err := loader.LoadValues(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return values
}

func helmObjects(t *testing.T, values map[string]any) []runtime.Object {
	t.Helper()
	return chartObjects(t, chartDir, values)
}

// chartObjects are those of the chart at path, as typed ones.
func chartObjects(t *testing.T, path string, values map[string]any) []runtime.Object {
	t.Helper()
	c, err := loader.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	files, err := renderChart(t.Context(), c, values)
	if err != nil {
		t.Fatal(err)
	}
	var objects []runtime.Object
	for name, text := range files {
		if strings.TrimSpace(text) != "" {
			objects = append(objects, parse(t, name, []byte(text))...)
		}
	}
	return objects
}

func settings(t *testing.T, objects []runtime.Object) *config.AgentConfiguration {
	t.Helper()
	c, err := config.Parse([]byte(configFile(t, objects)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// byIdentity maps each object's kind and name to it, without what makes no
// difference, and without the text of the configuration: what that says is
// compared apart.
func byIdentity(t *testing.T, objects []runtime.Object) map[string]runtime.Object {
	t.Helper()
	all := map[string]runtime.Object{}
	for _, o := range objects {
		o = o.DeepCopyObject()
		normalise(o)
		all[identities(t, []runtime.Object{o})[0]] = o
	}
	if len(all) != len(objects) {
		t.Errorf("%d objects have %d names", len(objects), len(all))
	}
	return all
}

func normalise(o runtime.Object) {
	switch o := o.(type) {
	case *corev1.ConfigMap:
		o.Data["config.yaml"] = ""
	case *appsv1.DaemonSet:
		// None refers to another, so the order means nothing.
		slices.SortFunc(o.Spec.Template.Spec.Containers[0].Env, func(a, b corev1.EnvVar) int {
			return strings.Compare(a.Name, b.Name)
		})
	case *admissionv1.ValidatingAdmissionPolicy:
		// Lines are folded in more than one way.
		for i := range o.Spec.Validations {
			for _, text := range []*string{&o.Spec.Validations[i].Expression, &o.Spec.Validations[i].MessageExpression} {
				*text = strings.Join(strings.Fields(*text), " ")
			}
		}
	}
}
