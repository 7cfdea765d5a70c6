package podcache

import (
	"context"
	"maps"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/sidestep-agent/sidestep/pkg/podcache/listwatch"
)

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
