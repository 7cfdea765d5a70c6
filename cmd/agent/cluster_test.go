package main

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// The kubelet replaces the agent's token in its file; one that is refused is
// not used for long.
func TestRefusedTokenIsReadAnew(t *testing.T) {
	tokens := make(chan string, 100)
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		bearer := r.Header.Get("Authorization")
		tokens <- bearer
		w.Header().Set("Content-Type", "application/json")
		if bearer != "Bearer second" {
			w.WriteHeader(http.StatusUnauthorized)
		}
		_, _ = io.WriteString(w, `{"major": "1"}`)
	}))
	defer api.Close()
	file := filepath.Join(t.TempDir(), "token")
	writeFile(t, file, "first")
	ca := filepath.Join(t.TempDir(), "ca.crt")
	writeFile(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})))
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	writeFile(t, kubeconfig, `{"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
		"clusters": [{"name": "c", "cluster": {"server": "`+api.URL+`", "certificate-authority": "`+ca+`"}}], "users": [{"name": "u", "user": {"tokenFile": "`+file+`"}}]}`)
	client, _, err := newClients(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		_, err := client.Discovery().ServerVersion()
		return err
	}
	if err := ask(); !apierrors.IsUnauthorized(err) {
		t.Fatalf("the first token: %v", err)
	}
	writeFile(t, file, "second")
	// The token that the refused request read was new to it.
	for tries := 1; ask() != nil; tries++ {
		if tries == 3 {
			t.Fatalf("still refused; the tokens were %q, %q, %q", <-tokens, <-tokens, <-tokens)
		}
	}
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRefusalBecomesAnEventOnThePod(t *testing.T) {
	client := fake.NewClientset()
	e := newEvents(client, "node-1")
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
				Meaning: "no federated credential is for the subject", Mend: "az identity …",
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

func checkEvent(t *testing.T, got *eventsv1.Event) {
	t.Helper()
	want := corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: "shop", Name: "web", UID: "uid"}
	if diff := cmp.Diff(want, got.Regarding); diff != "" {
		t.Errorf("regarding (-want +got):\n%s", diff)
	}
	if got.Namespace != "shop" || got.Type != corev1.EventTypeWarning || got.Reason != "TokenRefused" || got.Action != "AADSTS700213" ||
		got.Note != "AADSTS700213: no federated credential is for the subject. Mend: az identity …" {
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
		{"just right", workload.TokenError{Description: "d", Mend: strings.Repeat("m", maxNote-len("d. Mend: "))}, "mmm"},
		{"long command", workload.TokenError{Description: "d", Mend: strings.Repeat("m", maxNote)}, "d. What mends it is in the agent's log"},
		{"long description", workload.TokenError{Description: strings.Repeat("é", maxNote), Mend: "m"}, "What mends it"},
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

func TestAddressOfTheAPIServer(t *testing.T) {
	for server, want := range map[string]string{
		"https://10.0.0.1:6443":        "10.0.0.1:6443",
		"https://api.example":          "api.example:443",
		"https://[fd00::1]:443/prefix": "[fd00::1]:443",
	} {
		file := filepath.Join(t.TempDir(), "kubeconfig")
		text := "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: \"" + server + "\"}}]\n" +
			"contexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := apiServerAddress(file); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", server, got, err, want)
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
