package taint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	testclock "k8s.io/utils/clock/testing"
)

var nodes = schema.GroupResource{Resource: "nodes"}

// apiServer keeps one node as the API server does: a patch for another version
// than the present one is a conflict. (client-go's fake does not look.)
type apiServer struct {
	mu      sync.Mutex
	node    corev1.Node
	patches int
	meddle  int   // this many times somebody else changes the node before a patch comes
	fails   error // of every request, if not nil
}

func newServer(taints ...corev1.Taint) *apiServer {
	return &apiServer{node: corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-1", UID: "uid", ResourceVersion: "7"},
		Spec:       corev1.NodeSpec{Taints: taints},
	}}
}

func (s *apiServer) Get(_ context.Context, name string, _ metav1.GetOptions) (*corev1.Node, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name != s.node.Name {
		return nil, apierrors.NewNotFound(nodes, name)
	}
	return s.node.DeepCopy(), s.fails
}

func (s *apiServer) Patch(_ context.Context, name string, kind types.PatchType, patch []byte, _ metav1.PatchOptions, sub ...string) (*corev1.Node, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name != s.node.Name || kind != types.MergePatchType || len(sub) > 0 {
		return nil, apierrors.NewBadRequest("another request than expected")
	}
	s.patches++
	if s.meddle > 0 {
		s.meddle--
		s.bump()
		s.node.Spec.Taints = append(s.node.Spec.Taints, corev1.Taint{Key: "new-" + s.node.ResourceVersion})
	}
	var change struct {
		Metadata struct {
			UID             types.UID
			ResourceVersion string
		}
		Spec struct{ Taints []corev1.Taint }
	}
	decoder := json.NewDecoder(bytes.NewReader(patch))
	decoder.DisallowUnknownFields() // nothing else of the node may change
	if err := decoder.Decode(&change); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if change.Metadata.ResourceVersion != s.node.ResourceVersion || change.Metadata.UID != s.node.UID {
		return nil, apierrors.NewConflict(nodes, name, errors.New("the object has been modified"))
	}
	s.node.Spec.Taints = change.Spec.Taints
	s.bump()
	return s.node.DeepCopy(), nil
}

func (s *apiServer) bump() {
	version, _ := strconv.Atoi(s.node.ResourceVersion)
	s.node.ResourceVersion = strconv.Itoa(version + 1)
}

func (s *apiServer) set(taints ...corev1.Taint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.node.Spec.Taints = taints
	s.bump()
}

func (s *apiServer) taints() []corev1.Taint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node.Spec.Taints
}

func (s *apiServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.patches
}

func remover(s *apiServer) *Remover {
	return &Remover{Nodes: s, Node: "node-1", Clock: testclock.NewFakeClock(time.Now()), Log: slog.New(slog.DiscardHandler)}
}

var (
	ours   = corev1.Taint{Key: Key, Effect: corev1.TaintEffectNoSchedule}
	again  = corev1.Taint{Key: Key, Value: "true", Effect: corev1.TaintEffectNoExecute}
	others = corev1.Taint{Key: "sku", Value: "gpu", Effect: corev1.TaintEffectNoSchedule}
	like   = corev1.Taint{Key: Key + "-yet", Effect: corev1.TaintEffectNoSchedule}
)

func TestRemove(t *testing.T) {
	for _, tt := range []struct {
		name         string
		before, want []corev1.Taint
		patches      int
	}{
		{"none", nil, nil, 0},
		{"others alone", []corev1.Taint{others, like}, []corev1.Taint{others, like}, 0},
		{"ours alone", []corev1.Taint{ours}, []corev1.Taint{}, 1},
		{"whatever its value and effect", []corev1.Taint{ours, others, again, like}, []corev1.Taint{others, like}, 1},
	} {
		s := newServer(tt.before...)
		if err := remover(s).Remove(t.Context()); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if diff := cmp.Diff(tt.want, s.taints()); diff != "" || s.patches != tt.patches {
			t.Errorf("%s: %d patches (-want +got):\n%s", tt.name, s.patches, diff)
		}
	}
}

// What others do to the taints meanwhile is kept.
func TestConflictIsRetried(t *testing.T) {
	s := newServer(ours, others)
	s.meddle = 2
	if err := remover(s).Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []corev1.Taint{others, {Key: "new-8"}, {Key: "new-9"}}
	if diff := cmp.Diff(want, s.taints()); diff != "" || s.patches != 3 {
		t.Errorf("%d patches (-want +got):\n%s", s.patches, diff)
	}
	s.set(ours)
	s.meddle = 1 << 20
	if err := remover(s).Remove(t.Context()); !errors.Is(err, ErrContended) {
		t.Errorf("error %v, want ErrContended", err)
	}
}

func TestNotAllowed(t *testing.T) {
	s := newServer(ours)
	s.fails = apierrors.NewForbidden(nodes, "node-1", errors.New("no"))
	r := remover(s)
	if err := r.Remove(t.Context()); !errors.Is(err, ErrNotAllowed) {
		t.Errorf("error %v, want ErrNotAllowed", err)
	}
	if _, err := r.Present(t.Context()); !errors.Is(err, ErrNotAllowed) {
		t.Errorf("error %v, want ErrNotAllowed", err)
	}
}

// Run removes the taint at once, when it is back, and after a failure.
func TestRun(t *testing.T) {
	s := newServer(ours)
	s.fails = apierrors.NewServiceUnavailable("down")
	clock := testclock.NewFakeClock(time.Now())
	var log bytes.Buffer
	r := &Remover{Nodes: s, Node: "node-1", Clock: clock, Log: slog.New(slog.NewTextHandler(&log, nil))}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	waits(t, clock)
	if got := s.count(); got != 0 {
		t.Errorf("%d patches of an API server that is down", got)
	}
	s.mu.Lock()
	s.fails = nil
	s.mu.Unlock()
	clock.Step(firstPause)
	waits(t, clock)
	if got := s.taints(); len(got) != 0 {
		t.Errorf("after a failure: %v", got)
	}
	s.set(again, others)
	clock.Step(interval)
	waits(t, clock)
	if diff := cmp.Diff([]corev1.Taint{others}, s.taints()); diff != "" {
		t.Errorf("when it is back (-want +got):\n%s", diff)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := bytes.Count(log.Bytes(), []byte("took the taint")); n != 2 {
		t.Errorf("logged %d times, want 2:\n%s", n, &log)
	}
}

// waits returns once Run has done its round.
func waits(t *testing.T, clock *testclock.FakeClock) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !clock.HasWaiters(); {
		if time.Now().After(deadline) {
			t.Fatal("Run does not wait for its next round")
		}
		time.Sleep(time.Millisecond)
	}
}
