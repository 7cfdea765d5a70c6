package podcache

import (
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// identityExceptionKind is aad-pod-identity's kind of object that exempts
// pods. client-go has no client of its own for it.
var identityExceptionKind = schema.GroupVersionKind{
	Group: "aadpodidentity.k8s.io", Version: "v1", Kind: "AzurePodIdentityException",
}

const identityExceptionResource = "azurepodidentityexceptions"

// podLabels is the spec.podLabels of one AzurePodIdentityException.
type podLabels map[string]string

// newPodLabels returns none for an object that is not of the kind's form: it
// exempts no pod.
func newPodLabels(o *unstructured.Unstructured) podLabels {
	l, _, _ := unstructured.NestedStringMap(o.Object, "spec", "podLabels")
	return l
}

// match is aad-pod-identity's rule: any one label suffices, its value in any
// case.
func (l podLabels) match(pod *pod) bool {
	for key, value := range l {
		if has, ok := pod.labels[key]; ok && strings.EqualFold(has, value) {
			return true
		}
	}
	return false
}

// identityExceptions are the cluster's AzurePodIdentityException objects while
// they are honoured; nil while they are ignored. The cache's lock guards them.
type identityExceptions struct {
	objects map[string]map[string]podLabels // by namespace and name
	// awaited says that the cache has not listed them since it started: whom
	// they exempt is not known.
	awaited  bool
	imported bool // they are as an imported state has them
	absent   bool // the cluster does not have the kind
}

// exempting returns the name of an object that exempts the pod, or "". Objects
// count for pods of their own namespace only.
func (e *identityExceptions) exempting(pod *pod) string {
	if e == nil {
		return ""
	}
	objects := e.objects[pod.name.Namespace]
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		if objects[name].match(pod) {
			return name
		}
	}
	return ""
}

// isAwaited reports whether an object that is not known yet may exempt pods.
func (e *identityExceptions) isAwaited() bool { return e != nil && e.awaited }

// isImported reports whether the API has not listed yet what there is.
func (e *identityExceptions) isImported() bool { return e != nil && e.imported }

func (e *identityExceptions) set(namespace, name string, l podLabels) {
	if e.objects[namespace] == nil {
		e.objects[namespace] = map[string]podLabels{}
	}
	e.objects[namespace][name] = l
}

func (e *identityExceptions) remove(namespace, name string) {
	delete(e.objects[namespace], name)
	if len(e.objects[namespace]) == 0 {
		delete(e.objects, namespace)
	}
}
