// Package configmap tells the agent's configuration as the API server has it,
// in the ConfigMap that the configuration file is mounted from. cmd/agent/daemon gives
// it to pkg/config's Watcher. It never reads the configuration.
package configmap

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/sidestep-agent/sidestep/pkg/config"
)

// ConfigMap is the object that the configuration file is mounted from.
type ConfigMap struct {
	Client          kubernetes.Interface
	Namespace, Name string
	Key             string // under which the configuration is in it
}

// String returns what messages call it.
func (m ConfigMap) String() string {
	return fmt.Sprintf("ConfigMap %s/%s", m.Namespace, m.Name)
}

// pause is how long it takes until the API server is asked again: 3 to 6 s at
// most, since the way to switch the agent off leads through it.
var pause = wait.Backoff{Duration: 800 * time.Millisecond, Factor: 2, Jitter: 1, Cap: 3 * time.Second, Steps: 10}

// Follow watches the object, by its name alone, until ctx is done. It is a
// config.Source: the channel has the newest update that was not yet
// received, and failed is called with each error to list or watch the object,
// and with nil after each success.
func (m ConfigMap) Follow(ctx context.Context, failed func(error)) <-chan config.Update {
	store := objectStore{m, make(chan config.Update, 1)}
	objects := m.Client.CoreV1().ConfigMaps(m.Namespace)
	report := func(ctx context.Context, err error) {
		// Invalid: an older server that does not know watches which list; a
		// list follows.
		if ctx.Err() == nil && !apierrors.IsInvalid(err) && !apierrors.IsResourceExpired(err) {
			failed(err)
		}
	}
	named := fields.OneTermEqualSelector("metadata.name", m.Name).String()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = named
			l, err := objects.List(ctx, o)
			report(ctx, err)
			return l, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = named
			w, err := objects.Watch(ctx, o)
			report(ctx, err)
			return w, err
		},
	}
	silent := klog.Logger{} // failed tells what fails
	r := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, m.Client), &corev1.ConfigMap{}, store,
		cache.ReflectorOptions{Name: "configuration", Logger: &silent, Backoff: &pause})
	go r.RunWithContext(klog.NewContext(ctx, silent))
	return store.updates
}

// objectStore takes the ConfigMap from its reflector, which calls from one
// goroutine.
type objectStore struct {
	ConfigMap
	updates chan config.Update
}

// Add takes the object as it is now.
func (s objectStore) Add(o any) error {
	object := o.(*corev1.ConfigMap)
	if object.Namespace != s.Namespace || object.Name != s.Name {
		return nil // a server that does not know the field selector
	}
	text, ok := object.Data[s.Key]
	if !ok {
		s.send(config.Update{Err: fmt.Errorf("%s has no key %s: put the configuration there", s.ConfigMap, s.Key)})
		return nil
	}
	s.send(config.Update{Text: []byte(text)})
	return nil
}

// Update takes the object as it is now.
func (s objectStore) Update(o any) error { return s.Add(o) }

// Delete notes that there is no such object.
func (s objectStore) Delete(any) error {
	s.send(config.Update{Err: fmt.Errorf("%s is not there: create it", s.ConfigMap)})
	return nil
}

// Replace takes the answer to a list: the object, or nothing.
func (s objectStore) Replace(list []any, _ string) error {
	for _, o := range list {
		if object := o.(*corev1.ConfigMap); object.Namespace == s.Namespace && object.Name == s.Name {
			return s.Add(o)
		}
	}
	return s.Delete(nil)
}

// Resync is never asked for.
func (s objectStore) Resync() error { return nil }

// tell puts what was said in the place of what was not received yet.
func (s objectStore) send(t config.Update) {
	select {
	case <-s.updates:
	default:
	}
	s.updates <- t
}
