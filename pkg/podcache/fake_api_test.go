package podcache

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const testNode = "node-1"

var (
	created = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	now     = created.Add(time.Hour)
)

// api is a clientset that honours field selectors, which the tracker below it
// does not, fails the test for a list or watch without one, and knows which
// watches are open.
type api struct {
	*fake.Clientset
	t *testing.T

	mu      sync.Mutex
	open    map[string]int // "resource namespace selector"
	running map[*countedWatch]struct{}
	fail    func(resource string) error
	mute    bool
}

func newAPI(t *testing.T, objects ...runtime.Object) *api {
	a := &api{Clientset: fake.NewClientset(objects...), t: t, open: map[string]int{}, running: map[*countedWatch]struct{}{}}
	a.PrependReactor("list", "*", a.list)
	a.PrependWatchReactor("*", a.watch)
	return a
}

func (a *api) failure(resource string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fail == nil {
		return nil
	}
	return a.fail(resource)
}

func (a *api) setFail(f func(resource string) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fail = f
}

// silence has the watches, those to come as well, stay open and tell nothing:
// after etcd was restored from an older copy they wait for a version that is
// far ahead.
func (a *api) silence() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mute = true
}

func (a *api) isMute() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mute
}

func (a *api) list(action k8stesting.Action) (bool, runtime.Object, error) {
	if err := a.failure(action.GetResource().Resource); err != nil {
		return true, nil, err
	}
	selector := action.(k8stesting.ListAction).GetListRestrictions().Fields
	a.wantSelector(action, selector)
	_, list, err := k8stesting.ObjectReaction(a.Tracker())(action)
	if err != nil {
		return true, nil, err
	}
	items, err := meta.ExtractList(list)
	if err != nil {
		return true, nil, err
	}
	items = slices.DeleteFunc(items, func(o runtime.Object) bool { return !selector.Matches(fieldsOf(o)) })
	return true, list, meta.SetList(list, items)
}

func (a *api) watch(action k8stesting.Action) (bool, watch.Interface, error) {
	if err := a.failure(action.GetResource().Resource); err != nil {
		return true, nil, err
	}
	w := action.(k8stesting.WatchActionImpl)
	selector := w.GetWatchRestrictions().Fields
	a.wantSelector(action, selector)
	all, err := a.Tracker().Watch(action.GetResource(), action.GetNamespace(), w.ListOptions)
	if err != nil {
		return true, nil, err
	}
	name := strings.TrimSpace(fmt.Sprintf("%s %s %s", action.GetResource().Resource, action.GetNamespace(), selector))
	matching := watch.Filter(all, func(e watch.Event) (watch.Event, bool) {
		return e, !a.isMute() && selector.Matches(fieldsOf(e.Object))
	})
	counted := &countedWatch{Interface: matching}
	counted.stopped = sync.OnceFunc(func() { a.count(name, counted, -1) })
	a.count(name, counted, 1)
	return true, counted, nil
}

func (a *api) wantSelector(action k8stesting.Action, selector fields.Selector) {
	if selector == nil || selector.Empty() {
		a.t.Errorf("%s of %s in %q has no field selector", action.GetVerb(), action.GetResource().Resource, action.GetNamespace())
	}
}

func (a *api) count(name string, w *countedWatch, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n > 0 {
		a.running[w] = struct{}{}
	} else {
		delete(a.running, w)
	}
	if a.open[name] += n; a.open[name] == 0 {
		delete(a.open, name)
	}
}

// cut ends all watches, as a connection's end does.
func (a *api) cut() {
	a.mu.Lock()
	running := slices.Collect(maps.Keys(a.running))
	a.mu.Unlock()
	for _, w := range running {
		w.Stop()
	}
}

// watches returns the open watches, sorted; one open twice is there twice.
func (a *api) watches() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(a.open)) {
		names = append(names, slices.Repeat([]string{name}, a.open[name])...)
	}
	return names
}

type countedWatch struct {
	watch.Interface
	stopped func()
}

func (w *countedWatch) Stop() {
	w.Interface.Stop()
	w.stopped()
}

func fieldsOf(o runtime.Object) fields.Set {
	m, err := meta.Accessor(o)
	if err != nil {
		return nil
	}
	set := fields.Set{"metadata.name": m.GetName()}
	if p, ok := o.(*corev1.Pod); ok {
		set["spec.nodeName"] = p.Spec.NodeName
	}
	return set
}

func (a *api) put(objects ...runtime.Object) {
	a.t.Helper()
	for _, o := range objects {
		resource := resourceOf(o)
		m, _ := meta.Accessor(o)
		err := a.Tracker().Update(resource, o, m.GetNamespace())
		if err != nil {
			err = a.Tracker().Create(resource, o, m.GetNamespace())
		}
		if err != nil {
			a.t.Fatal(err)
		}
	}
}

func (a *api) remove(o runtime.Object) {
	a.t.Helper()
	resource := resourceOf(o)
	m, _ := meta.Accessor(o)
	if err := a.Tracker().Delete(resource, m.GetNamespace(), m.GetName()); err != nil {
		a.t.Fatal(err)
	}
}

// cluster is a running cache and the API it follows.
type cluster struct {
	*Cache
	api     *api
	custom  *customAPI
	fake    *clocktesting.FakeClock
	metrics *prometheus.Registry
	logs    *logs
}

func newCluster(t *testing.T, cfg *config.AgentConfiguration, objects ...runtime.Object) *cluster {
	t.Helper()
	c := &cluster{
		api:     newAPI(t, objects...),
		custom:  newCustomAPI(t),
		fake:    clocktesting.NewFakeClock(now),
		metrics: prometheus.NewRegistry(),
		logs:    &logs{},
	}
	var err error
	c.Cache, err = New(Options{
		Client: c.api, Dynamic: c.custom, NodeName: testNode, Config: cfg, Registerer: c.metrics,
		Log: slog.New(slog.NewTextHandler(c.logs, nil)), Clock: c.fake,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// start runs the cache and waits until it is ready and every watch is open:
// the tracker does not tell a watch what was deleted before it.
func (c *cluster) start(t *testing.T) *cluster {
	t.Helper()
	go func() { _ = c.Run(t.Context()) }()
	c.awaitReady(t)
	c.mu.RLock()
	accounts := len(c.accounts)
	c.mu.RUnlock()
	eventually(t, "the watches", func() bool { return len(c.api.watches()) == 1+accounts })
	return c
}

func (c *cluster) awaitReady(t *testing.T) {
	t.Helper()
	select {
	case <-c.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("not ready")
	}
}

// eventually waits until the cache has followed the API so far that ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never came: %s", what)
		}
	}
}

// notFound is what verdict returns for a pod that the cache does not have.
const notFound workload.Verdict = 255

func (c *cluster) verdict(uid string) workload.Verdict {
	_, d, ok := c.Lookup(workload.CgroupRef{PodUID: uid})
	if !ok {
		return notFound
	}
	return d.Verdict
}

func (c *cluster) workload(uid string) workload.Workload {
	w, _, _ := c.Lookup(workload.CgroupRef{PodUID: uid})
	return w
}

type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logs) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), s)
}

func newObjectMeta(namespace, name, uid string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name, UID: types.UID(uid), CreationTimestamp: metav1.NewTime(created),
	}
}
