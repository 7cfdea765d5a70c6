package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"reflect"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// Every object of every overlay passes the API server's own validation; a
// field that it does not know is an error, and so is one of which it would keep
// something else: tools that compare would never be done. Nothing is changed.
func TestManifestsAreValid(t *testing.T) {
	needNode(t)
	folders, err := os.ReadDir(manifests + "/overlays")
	if err != nil {
		t.Fatal(err)
	}
	sources := [][]string{
		{"-k", manifest(t, "base")},
		{"-k", manifest(t, "uninstall")},
		{"-k", manifest(t, "uninstall-boot-guard")},
		{"-f", manifest(t, "check-job.yaml")},
	}
	for _, f := range folders {
		sources = append(sources, []string{"-k", manifest(t, "overlays/"+f.Name())})
	}
	for _, source := range sources {
		t.Run(path.Base(source[1]), func(t *testing.T) {
			t.Parallel()
			kept := kubectl(t, append([]string{
				"apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "--output=json",
			}, source...)...)
			checkKept(t, rendered(t, source), kept)
		})
	}
}

// rendered returns the objects as kubectl sends them.
func rendered(t *testing.T, source []string) string {
	t.Helper()
	if source[0] == "-k" {
		return kubectl(t, "kustomize", source[1])
	}
	text, err := os.ReadFile(source[1])
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// checkKept checks that the API server keeps what it is given.
func checkKept(t *testing.T, given, kept string) {
	t.Helper()
	var list unstructured.UnstructuredList
	if err := json.Unmarshal([]byte(kept), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) == 0 { // a single object is no list
		var one unstructured.Unstructured
		if err := json.Unmarshal([]byte(kept), &one); err != nil {
			t.Fatal(err)
		}
		list.Items = append(list.Items, one)
	}
	name := func(o *unstructured.Unstructured) string {
		return fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName())
	}
	objects := map[string]map[string]any{}
	for _, o := range list.Items {
		objects[name(&o)] = o.Object
	}
	for documents := yaml.NewYAMLOrJSONDecoder(bytes.NewBufferString(given), 4096); ; {
		var o unstructured.Unstructured
		err := documents.Decode(&o)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, difference := range differences(name(&o), o.Object, objects[name(&o)]) {
			t.Error(difference)
		}
	}
}

// differences returns where kept is not as given. What the API server adds in
// objects is none.
func differences(where string, given, kept any) []string {
	var all []string
	switch given := given.(type) {
	case map[string]any:
		other, _ := kept.(map[string]any)
		for key, value := range given {
			all = append(all, differences(where+"."+key, value, other[key])...)
		}
		return all
	case []any:
		if other, ok := kept.([]any); ok && len(other) == len(given) {
			for i, value := range given {
				all = append(all, differences(fmt.Sprintf("%s[%d]", where, i), value, other[i])...)
			}
			return all
		}
	}
	if !reflect.DeepEqual(given, kept) {
		all = append(all, fmt.Sprintf("%s is %v, and the API server keeps %v", where, given, kept))
	}
	return all
}

// The Job says of this node, which runs the agent, that it can.
func TestCheckJob(t *testing.T) {
	needNode(t)
	job := manifest(t, "check-job.yaml")
	kubectl(t, "apply", "-f", job)
	t.Cleanup(func() { kubectl(t, "delete", "-f", job, "--wait=false") })
	_, err := tryInNode(nil, "kubectl", "-n", system, "wait", "--for=condition=Complete", "job/sidestep-check", "--timeout=30s")
	t.Log(kubectl(t, "-n", system, "logs", "job/sidestep-check"))
	if err != nil {
		t.Error(err)
	}
}
