package main

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

const manifests = "../../manifests"

// overlays are those that the project promises.
var overlays = []string{"audit", "boot-guard", "canary", "deny-unlabeled", "metadata-only", "metrics-auth", "node-delivery", "recommended", "taint", "token-request"}

// rendered is everything that is rendered, by name, as typed objects.
func rendered(t *testing.T) map[string][]runtime.Object {
	t.Helper()
	all, err := renderAll(manifests)
	if err != nil {
		t.Fatal(err)
	}
	objects := make(map[string][]runtime.Object, len(all))
	for name, data := range all {
		objects[name] = parse(t, name, data)
	}
	return objects
}

// parse reads documents into the API's types; a field that they do not have,
// or that stands twice, is an error.
func parse(t *testing.T, name string, data []byte) []runtime.Object {
	t.Helper()
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := yaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(data)))
	defer documents.Close()
	var objects []runtime.Object
	buffer := make([]byte, 1<<20)
	for {
		n, err := documents.Read(buffer)
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		object, _, err := decoder.Decode(buffer[:n], nil, nil)
		if err != nil {
			t.Fatalf("%s, document %d: %v", name, len(objects)+1, err)
		}
		objects = append(objects, object)
	}
}

// only returns the objects of one type.
func only[T runtime.Object](objects []runtime.Object) []T {
	var all []T
	for _, o := range objects {
		if typed, ok := o.(T); ok {
			all = append(all, typed)
		}
	}
	return all
}

// one returns the only object of its type.
func one[T runtime.Object](t *testing.T, objects []runtime.Object) T {
	t.Helper()
	all := only[T](objects)
	if len(all) != 1 {
		t.Fatalf("%d objects of type %T, want 1", len(all), *new(T))
	}
	return all[0]
}

// podTemplates returns those of everything that runs pods.
func podTemplates(objects []runtime.Object) []corev1.PodTemplateSpec {
	var all []corev1.PodTemplateSpec
	for _, d := range only[*appsv1.DaemonSet](objects) {
		all = append(all, d.Spec.Template)
	}
	for _, j := range only[*batchv1.Job](objects) {
		all = append(all, j.Spec.Template)
	}
	return all
}

func TestEverythingPromisedIsRendered(t *testing.T) {
	want := append([]string{"base", "check-job", "uninstall", "uninstall-boot-guard"}, overlays...)
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(rendered(t)))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// added are the objects that an overlay has besides the base's.
var added = map[string][]string{
	"metrics-auth": {
		"rbac.authorization.k8s.io/v1, Kind=ClusterRole /sidestep-agent-metrics-auth",
		"rbac.authorization.k8s.io/v1, Kind=ClusterRole /sidestep-metrics-reader",
		"rbac.authorization.k8s.io/v1, Kind=ClusterRoleBinding /sidestep-agent-metrics-auth",
	},
	"taint": {
		"admissionregistration.k8s.io/v1, Kind=ValidatingAdmissionPolicy /sidestep-agent-taint",
		"admissionregistration.k8s.io/v1, Kind=ValidatingAdmissionPolicyBinding /sidestep-agent-taint",
		"rbac.authorization.k8s.io/v1, Kind=ClusterRole /sidestep-agent-taint",
		"rbac.authorization.k8s.io/v1, Kind=ClusterRoleBinding /sidestep-agent-taint",
	},
	"token-request": {
		"admissionregistration.k8s.io/v1, Kind=ValidatingAdmissionPolicy /sidestep-agent-token-request",
		"admissionregistration.k8s.io/v1, Kind=ValidatingAdmissionPolicyBinding /sidestep-agent-token-request",
		"rbac.authorization.k8s.io/v1, Kind=ClusterRole /sidestep-agent-token-request",
		"rbac.authorization.k8s.io/v1, Kind=ClusterRoleBinding /sidestep-agent-token-request",
	},
}

// An overlay changes the base's objects; it leaves out none, and adds those
// that it is named for alone.
func TestOverlaysHaveTheBasesObjects(t *testing.T) {
	all := rendered(t)
	want := identities(t, all["base"])
	if len(want) != 10 {
		t.Errorf("the base has %d objects, want 10: %v", len(want), want)
	}
	for _, name := range overlays {
		want := append(slices.Clone(want), added[name]...)
		slices.Sort(want)
		if diff := cmp.Diff(want, identities(t, all[name])); diff != "" {
			t.Errorf("%s (-base +overlay):\n%s", name, diff)
		}
	}
}

func identities(t *testing.T, objects []runtime.Object) []string {
	t.Helper()
	var all []string
	for _, o := range objects {
		m, ok := o.(metav1.Object)
		if !ok {
			t.Fatalf("%T has no metadata", o)
		}
		all = append(all, o.GetObjectKind().GroupVersionKind().String()+" "+m.GetNamespace()+"/"+m.GetName())
	}
	slices.Sort(all)
	return all
}
