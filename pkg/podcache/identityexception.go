package podcache

import (
	"context"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sidestep-agent/sidestep/pkg/podcache/listwatch"
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

// exceptionWatch watches the objects while they are honoured.
type exceptionWatch struct{ *Cache }

// run watches until ctx is done.
func (c exceptionWatch) run(ctx context.Context) {
	stop := func() {}
	defer func() { stop() }()
	for {
		select {
		case <-c.switched:
			stop()
			stop = c.begin(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// begin watches until stop is called, if they are honoured now.
func (c exceptionWatch) begin(ctx context.Context) (stop context.CancelFunc) {
	ctx, stop = context.WithCancel(ctx)
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.exempt == nil {
		return stop
	}
	store := identityExceptionStore{c.Cache, c.exempt, ctx}
	objects := c.dynamic.Resource(identityExceptionKind.GroupVersion().WithResource(identityExceptionResource))
	lw := listwatch.New(fields.Everything(), store.failed,
		listwatch.Behind(c.gate, objects.List), listwatch.Behind(c.gate, objects.Watch))
	example := &unstructured.Unstructured{}
	example.SetGroupVersionKind(identityExceptionKind)
	go listwatch.Keep(ctx, store, identityExceptionResource, lw, c.dynamic, example)
	return stop
}

// identityExceptionStore takes the objects from their reflector.
type identityExceptionStore struct {
	*Cache
	exceptions *identityExceptions
	ctx        context.Context // of the reflector: what it says later is old
}

// active reports whether the objects that the store is for are still
// honoured: its reflector may outlive them. The caller holds the lock.
func (s identityExceptionStore) active() bool { return s.exempt == s.exceptions && s.ctx.Err() == nil }

// Add takes an object as it is now.
func (s identityExceptionStore) Add(o any) error {
	object := o.(*unstructured.Unstructured)
	namespace, name, next := object.GetNamespace(), object.GetName(), newPodLabels(object)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.active() || maps.Equal(s.exceptions.objects[namespace][name], next) {
		return nil
	}
	s.exceptions.set(namespace, name, next)
	s.recompute(func(r *record) bool { return r.name.Namespace == namespace })
	return nil
}

// Update takes an object as it is now.
func (s identityExceptionStore) Update(o any) error { return s.Add(o) }

// Delete forgets an object.
func (s identityExceptionStore) Delete(o any) error {
	object := o.(*unstructured.Unstructured)
	namespace := object.GetNamespace()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.active() {
		return nil
	}
	s.exceptions.remove(namespace, object.GetName())
	s.recompute(func(r *record) bool { return r.name.Namespace == namespace })
	return nil
}

// Replace takes the list of all objects.
func (s identityExceptionStore) Replace(list []any, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.active() {
		return nil
	}
	if s.exceptions.absent {
		s.exceptions.absent = false
		s.log.Info("the cluster has AzurePodIdentityException objects now; they are honoured")
	}
	s.replaceObjects(list)
	return nil
}

// Resync is never asked for.
func (s identityExceptionStore) Resync() error { return nil }

// failed takes an error of a list or watch. A cluster without the kind has no
// such objects: that is no reason to wait. The reflector goes on trying.
func (s identityExceptionStore) failed(ctx context.Context, err error) {
	if !apierrors.IsNotFound(err) {
		s.errors.Take(ctx, identityExceptionResource, err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.active() || s.exceptions.absent {
		return
	}
	s.exceptions.absent = true
	s.log.Warn("azurePodIdentityExceptions is honour, but the cluster has no such kind of object; looking for it from time to time",
		"watched", identityExceptionResource)
	s.replaceObjects(nil)
}

// replaceObjects puts all objects in the place of those known. The caller
// holds the lock.
func (s identityExceptionStore) replaceObjects(list []any) {
	clear(s.exceptions.objects)
	for _, item := range list {
		o := item.(*unstructured.Unstructured)
		s.exceptions.set(o.GetNamespace(), o.GetName(), newPodLabels(o))
	}
	s.exceptions.awaited, s.exceptions.imported = false, false
	s.recompute(func(*record) bool { return true })
	s.checkReady()
}
