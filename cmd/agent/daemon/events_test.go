package daemon

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func TestRefusalBecomesAnEventOnThePod(t *testing.T) {
	client := fake.NewClientset()
	e := newEvents(client, "node-1", nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	created, err := client.EventsV1().Events("shop").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// What is recorded before Run listens is lost.
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	limit := time.After(10 * time.Second)
	for waiting := true; waiting; {
		select {
		case <-again.C:
			e.tokenRefused(workload.Workload{Namespace: "shop", PodName: "web", PodUID: "uid"}, &workload.TokenError{
				Kind: workload.Refused, Code: "AADSTS700213", Description: "Entra's words",
				Meaning: "no federated credential is for the subject", Fix: "az identity …",
			})
			continue
		case <-limit:
			t.Fatal("no event")
		case change := <-created.ResultChan():
			checkEvent(t, change.Object.(*eventsv1.Event))
			waiting = false
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// However many pods are refused, the API server is not asked for more events than
// the budget says.
func TestEventsOnPodsAreBounded(t *testing.T) {
	registry := prometheus.NewRegistry()
	e := newEvents(fake.NewClientset(), "node-1", registry)
	e.budget.SetLimit(0)
	recorded := &countingRecorder{}
	e.recorder = recorded
	for i := range eventBurst + 50 {
		uid := strconv.Itoa(i)
		if i%2 == 0 {
			e.packetsNotGuarded(workload.Pod{Namespace: "shop", Name: uid, UID: uid}, errors.New("macvlan"))
			continue
		}
		e.tokenRefused(workload.Workload{Namespace: "shop", PodName: uid, PodUID: uid}, &workload.TokenError{Kind: workload.Refused})
	}
	if recorded.events != eventBurst || testutil.ToFloat64(e.leftOut) != 50 {
		t.Errorf("%d events, %v counted as left out, want %d and 50", recorded.events, testutil.ToFloat64(e.leftOut), eventBurst)
	}
}

type countingRecorder struct{ events int }

// Eventf implements events.EventRecorder.
func (r *countingRecorder) Eventf(_, _ runtime.Object, _, _, _, _ string, _ ...any) { r.events++ }

func checkEvent(t *testing.T, got *eventsv1.Event) {
	t.Helper()
	want := corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: "shop", Name: "web", UID: "uid"}
	if diff := cmp.Diff(want, got.Regarding); diff != "" {
		t.Errorf("regarding (-want +got):\n%s", diff)
	}
	if got.Namespace != "shop" || got.Type != corev1.EventTypeWarning || got.Reason != "TokenRefused" || got.Action != "AADSTS700213" ||
		got.Note != "AADSTS700213: no federated credential is for the subject. Fix: az identity …" {
		t.Errorf("event %+v", got)
	}
}

// A note is never longer than the API takes, and never has half a command.
func TestNotesFit(t *testing.T) {
	for _, tc := range []struct {
		name   string
		failed workload.TokenError
		want   string // in the note
	}{
		{"short", workload.TokenError{Description: "no tenant is set"}, "no tenant is set"},
		{"just right", workload.TokenError{Description: "d", Fix: strings.Repeat("m", maxNote-len("d. Fix: "))}, "mmm"},
		{"long command", workload.TokenError{Description: "d", Fix: strings.Repeat("m", maxNote)}, "d. What fixes it is in the agent's log"},
		{"long description", workload.TokenError{Description: strings.Repeat("é", maxNote), Fix: "m"}, "What fixes it"},
		{"not accepted yet", workload.TokenError{
			Code: "AADSTS1", Meaning: "none is there", Fix: "az it", RetriedUntil: time.Date(2026, 3, 1, 9, 2, 0, 0, time.UTC),
		}, "AADSTS1: none is there. Not accepted yet, retried until 2026-03-01T09:02:00Z; if it stays: az it"},
		{"long description alone", workload.TokenError{Description: "x" + strings.Repeat("é", maxNote)}, "xé"},
	} {
		got := note(&tc.failed)
		if len(got) > maxNote || !utf8.ValidString(got) || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %d bytes: %q", tc.name, len(got), got)
		}
		if cut := strings.Count(got, "m"); tc.name == "long command" && cut > 1 {
			t.Errorf("%s: a command is cut: %q", tc.name, got)
		}
	}
}

func TestEachMistakeHasItsEvent(t *testing.T) {
	first, second := errors.New("line 2: no such field"), errors.New("line 3: no such value")
	if reloadOf(first) == reloadOf(second) {
		t.Errorf("both are %s, one series of events", reloadOf(first))
	}
	if again := errors.New(first.Error()); reloadOf(first) != reloadOf(again) {
		t.Error("the same mistake twice is no series")
	}
}
