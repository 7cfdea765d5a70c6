package kubeapi

import (
	"slices"
	"sort"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/utils/clock"
)

// kind names a collection of objects.
type kind string

const (
	pods            kind = "pods"
	serviceAccounts kind = "serviceaccounts"
)

// object is what the store keeps. A stored object is never changed, only
// replaced.
type object interface {
	runtime.Object
	metav1.Object
}

type key struct {
	kind            kind
	namespace, name string
}

// change is one step in the store's history.
type change struct {
	version uint64
	kind    kind
	old     object // nil: added
	new     object // nil: deleted; old then has the version of the deletion
	at      time.Time
}

// store keeps objects and all that ever happened to them, so that a watch can
// begin at any version. It is meant for runs of minutes.
type store struct {
	clock clock.PassiveClock

	mu      sync.Mutex
	version uint64
	objects map[key]object
	history []change
	changed chan struct{} // closed at the next change
}

func newStore(c clock.PassiveClock) *store {
	// Version 0 means "any" in requests, so the first state is version 1.
	return &store{clock: c, version: 1, objects: map[key]object{}, changed: make(chan struct{})}
}

// PutPod creates or replaces a pod. The object is copied; UID and creation
// time are filled in or kept.
func (s *Server) PutPod(pod *corev1.Pod) {
	pod = pod.DeepCopy()
	pod.TypeMeta = metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}
	s.store.put(pods, pod)
}

// PutServiceAccount creates or replaces a service account, as PutPod does.
func (s *Server) PutServiceAccount(account *corev1.ServiceAccount) {
	account = account.DeepCopy()
	account.TypeMeta = metav1.TypeMeta{Kind: "ServiceAccount", APIVersion: "v1"}
	s.store.put(serviceAccounts, account)
}

// DeletePod removes a pod at once; a pod that does not exist is no error.
func (s *Server) DeletePod(namespace, name string) {
	s.store.remove(key{pods, namespace, name})
}

// DeleteServiceAccount removes a service account, as DeletePod does.
func (s *Server) DeleteServiceAccount(namespace, name string) {
	s.store.remove(key{serviceAccounts, namespace, name})
}

// put stores o, which must be the store's own.
func (s *store) put(k kind, o object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := key{k, o.GetNamespace(), o.GetName()}
	old := s.objects[id]
	if old != nil {
		if o.GetUID() == "" {
			o.SetUID(old.GetUID())
		}
		o.SetCreationTimestamp(old.GetCreationTimestamp())
	}
	if o.GetUID() == "" {
		o.SetUID(uuid.NewUUID())
	}
	if t := o.GetCreationTimestamp(); t.IsZero() {
		o.SetCreationTimestamp(metav1.NewTime(s.clock.Now()))
	}
	s.stamp(o)
	s.objects[id] = o
	s.record(change{version: s.version, kind: k, old: old, new: o})
}

func (s *store) remove(id key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.objects[id]
	if old == nil {
		return
	}
	delete(s.objects, id)
	last := old.DeepCopyObject().(object)
	s.stamp(last)
	s.record(change{version: s.version, kind: id.kind, old: last})
}

func (s *store) stamp(o object) {
	s.version++
	o.SetResourceVersion(strconv.FormatUint(s.version, 10))
}

func (s *store) record(c change) {
	c.at = s.clock.Now()
	s.history = append(s.history, c)
	close(s.changed)
	s.changed = make(chan struct{})
}

// list returns the objects that match, and the version at which they do.
func (s *store) list(match selector) ([]object, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []object
	for id, o := range s.objects {
		if id.kind == match.kind && match.has(o) {
			found = append(found, o)
		}
	}
	return found, s.version
}

// since returns the changes after version, and a channel that is closed when
// there are more.
func (s *store) since(version uint64) ([]change, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := sort.Search(len(s.history), func(i int) bool { return s.history[i].version > version })
	return slices.Clip(s.history[i:]), s.changed
}

func (s *store) get(id key) object {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects[id]
}
