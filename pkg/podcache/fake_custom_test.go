package podcache

import (
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	k8stesting "k8s.io/client-go/testing"
)

var identityExceptionGVR = identityExceptionKind.GroupVersion().WithResource(identityExceptionResource)

// customAPI serves AzurePodIdentityException objects, or fails as the test says.
type customAPI struct {
	*dynamicfake.FakeDynamicClient
	t *testing.T

	mu   sync.Mutex
	fail error
}

func newCustomAPI(t *testing.T) *customAPI {
	a := &customAPI{t: t, FakeDynamicClient: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(
		runtime.NewScheme(), map[schema.GroupVersionResource]string{
			identityExceptionGVR: identityExceptionKind.Kind + "List",
		})}
	a.PrependReactor("list", "*", func(k8stesting.Action) (bool, runtime.Object, error) {
		err := a.failure()
		return err != nil, nil, err
	})
	return a
}

// errNoKind is what an API server says of a kind that it does not have.
var errNoKind = apierrors.NewGenericServerResponse(404, "list", identityExceptionGVR.GroupResource(), "", "404 page not found", 0, true)

func (a *customAPI) failure() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.fail
}

func (a *customAPI) setFailure(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fail = err
}

// asked returns how often objects were listed or watched.
func (a *customAPI) asked(verb string) int {
	n := 0
	for _, action := range a.Actions() {
		if action.Matches(verb, identityExceptionResource) {
			n++
		}
	}
	return n
}

func (a *customAPI) put(o *unstructured.Unstructured) {
	a.t.Helper()
	objects := a.Resource(identityExceptionGVR).Namespace(o.GetNamespace())
	_, err := objects.Create(a.t.Context(), o, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = objects.Update(a.t.Context(), o, metav1.UpdateOptions{})
	}
	if err != nil {
		a.t.Fatal(err)
	}
}

func (a *customAPI) remove(o *unstructured.Unstructured) {
	a.t.Helper()
	err := a.Resource(identityExceptionGVR).Namespace(o.GetNamespace()).Delete(a.t.Context(), o.GetName(), metav1.DeleteOptions{})
	if err != nil {
		a.t.Fatal(err)
	}
}

func newIdentityException(namespace, name string, pairs ...string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{}}
	o.SetGroupVersionKind(identityExceptionKind)
	o.SetNamespace(namespace)
	o.SetName(name)
	labels := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		labels[pairs[i]] = pairs[i+1]
	}
	o.Object["spec"] = map[string]any{"podLabels": labels}
	return o
}
