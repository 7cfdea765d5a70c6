package configmap

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/config"
)

// server has the ConfigMap, or refuses to tell of it.
type server struct {
	*fake.Clientset
	t       *testing.T
	mu      sync.Mutex
	refuses bool
	watched bool
}

func newServer(t *testing.T, text string) *server {
	s := &server{Clientset: fake.NewClientset(), t: t}
	refuse := func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.refuses {
			return apierrors.NewForbidden(corev1.Resource("configmaps"), "sidestep", nil)
		}
		return nil
	}
	s.PrependReactor("list", "configmaps", func(a k8stesting.Action) (bool, runtime.Object, error) {
		if got := a.(k8stesting.ListAction).GetListRestrictions().Fields.String(); got != "metadata.name=sidestep" {
			t.Errorf("listed by %q: the Role allows one name", got)
		}
		err := refuse()
		return err != nil, nil, err
	})
	s.PrependWatchReactor("configmaps", func(a k8stesting.Action) (bool, watch.Interface, error) {
		w, err := s.Tracker().Watch(a.GetResource(), a.GetNamespace(), a.(k8stesting.WatchActionImpl).ListOptions)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.watched = true
		return true, w, err
	})
	s.set(text)
	return s
}

// isWatched reports whether a watch is open: the tracker tells none what was
// deleted before it.
func (s *server) isWatched() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watched
}

func (s *server) refuse(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuses = yes
}

func (s *server) set(text string) {
	s.t.Helper()
	s.put(map[string]string{"agent.yaml": text})
}

func (s *server) put(data map[string]string) {
	s.t.Helper()
	o := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: "sidestep"}, Data: data}
	resource := corev1.SchemeGroupVersion.WithResource("configmaps")
	if s.Tracker().Update(resource, o, o.Namespace) == nil {
		return
	}
	if err := s.Tracker().Create(resource, o, o.Namespace); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) remove() {
	s.t.Helper()
	if err := s.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("configmaps"), "system", "sidestep"); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) configMap() ConfigMap {
	return ConfigMap{Client: s, Namespace: "system", Name: "sidestep", Key: "agent.yaml"}
}

// followed returns a watcher of both that runs, once it watches the object.
func followed(t *testing.T, s *server, path string) (*config.Watcher, seen) {
	t.Helper()
	w := open(t, s, path)
	got := run(t, w)
	await(t, "a watch", s.isWatched)
	return w, got
}

const (
	header = "apiVersion: sidestep.dev/v1alpha1\nkind: AgentConfiguration\n"
	bad    = header + "mode: auditt\n"
)

// seen is what a watcher hands out.
type seen struct {
	applied chan *config.AgentConfiguration
	refused chan error
}

func open(t *testing.T, s *server, path string) *config.Watcher {
	t.Helper()
	w, err := config.NewWatcher(config.WatcherOptions{
		Path: path, StateDir: t.TempDir(), Source: s.configMap(),
		Registerer: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler), Clock: clock.RealClock{},
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// run runs the watcher until the test ends.
func run(t *testing.T, w *config.Watcher) seen {
	t.Helper()
	s := seen{make(chan *config.AgentConfiguration, 10), make(chan error, 10)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- w.Run(ctx, func(c *config.AgentConfiguration) { s.applied <- c }, func(err error) { s.refused <- err })
	}()
	t.Cleanup(func() { cancel(); receive(t, ended) })
	return s
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(30 * time.Second):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// write puts a text in the place of the file, at a stroke.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".next", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".next", path); err != nil {
		t.Fatal(err)
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never came: %s", what)
		}
	}
}

// The way to switch the agent off: the file may be a minute late.
func TestAChangeIsAppliedBeforeTheFileHasIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	write(t, path, header)
	s := newServer(t, header)
	w, got := followed(t, s, path)
	since := time.Now()
	s.set(header + "mode: audit\n")
	if c := receive(t, got.applied); c.Mode != config.ModeAudit {
		t.Fatalf("applied %+v", c)
	}
	if took := time.Since(since); took > 5*time.Second {
		t.Errorf("applied after %v", took)
	}
	if state := w.State(); state.Origin != config.OriginConfigMap || state.Refused != nil {
		t.Errorf("state %+v", state)
	}
	write(t, path, header+"mode: audit\n") // the kubelet follows
	s.set(bad)
	if err := receive(t, got.refused); !strings.Contains(err.Error(), "ConfigMap system/sidestep: line 3") {
		t.Errorf("refused: %v", err)
	}
	if len(got.applied) > 0 {
		t.Errorf("the file's copy was applied once more: %+v", <-got.applied)
	}
}

func TestWithoutAConfigMapTheFileIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	write(t, path, header)
	s := newServer(t, header)
	w, got := followed(t, s, path)
	s.remove()
	if err := receive(t, got.refused); !strings.Contains(err.Error(), "is not there: create it") {
		t.Errorf("refused: %v", err)
	}
	s.put(map[string]string{"other.yaml": header})
	if err := receive(t, got.refused); !strings.Contains(err.Error(), "has no key agent.yaml") {
		t.Errorf("refused: %v", err)
	}
	write(t, path, header+"mode: audit\n")
	if c := receive(t, got.applied); c.Mode != config.ModeAudit {
		t.Errorf("applied %+v", c)
	}
	if state := w.State(); state.Origin != config.OriginFile || state.Refused != nil {
		t.Errorf("state %+v", state)
	}
}

func TestThatItIsNotWatchedIsSaid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	write(t, path, header)
	s := newServer(t, header+"mode: audit\n")
	s.refuse(true)
	w := open(t, s, path)
	got := run(t, w)
	await(t, "the refusal", func() bool { return apierrors.IsForbidden(w.State().Unwatched) })
	s.refuse(false)
	if c := receive(t, got.applied); c.Mode != config.ModeAudit {
		t.Errorf("applied %+v", c)
	}
	await(t, "its end", func() bool { return w.State().Unwatched == nil })
}
