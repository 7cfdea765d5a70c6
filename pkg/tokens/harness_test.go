package tokens

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	tenantA = "aaaaaaaa-0000-4000-8000-00000000000a"
	clientA = "cccccccc-0000-4000-8000-00000000000a"
	clientB = "cccccccc-0000-4000-8000-00000000000b"
	vault   = "https://vault.azure.net"
)

// bench is an engine with all that stands around it.
type bench struct {
	t      *testing.T
	entra  *fakeEntra
	engine *Engine
	clock  clock.RealClock // fake in a bubble
	date   *settableClock
	dir    string // kubelet's
	log    *syncBuffer
	audit  *syncBuffer
	reg    *prometheus.Registry
}

// settableClock tells the date, and can be set like a node's clock.
type settableClock struct {
	clock.PassiveClock
	mu   sync.Mutex
	step time.Duration
}

func (c *settableClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.PassiveClock.Now().Add(c.step)
}

func (c *settableClock) set(step time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.step += step
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// inBubble runs f with a bench whose time passes by itself when nothing else
// is to be done.
func inBubble(t *testing.T, f func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newBench(t)) })
}

func newBench(t *testing.T) *bench {
	b := &bench{
		t:     t,
		entra: newFakeEntra(),
		date:  &settableClock{PassiveClock: clock.RealClock{}},
		dir:   t.TempDir(),
		log:   &syncBuffer{},
		audit: &syncBuffer{},
		reg:   prometheus.NewRegistry(),
	}
	engine, err := New(Options{
		KubeletDir:    b.dir,
		TenantID:      tenantA,
		AuthorityHost: b.entra.URL + "/",
		Transport:     b.entra,
		Log:           slog.New(slog.NewTextHandler(b.log, nil)),
		Audit:         slog.New(slog.NewJSONHandler(b.audit, nil)),
		Registerer:    b.reg,
		Date:          b.date,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.engine = engine
	return b
}

// pod returns a workload whose assertion lies where the kubelet would put it.
func (b *bench) pod(namespace, account, name string) workload.Workload {
	w := workload.Workload{
		PodUID:             "pod-" + namespace + "-" + account + "-" + name,
		PodName:            name,
		Namespace:          namespace,
		ServiceAccount:     account,
		ServiceAccountUID:  "sa-" + namespace + "-" + account,
		ServiceAccountSeen: true,
		ClientID:           clientA,
		ChangedAt:          b.clock.Now().Add(-time.Hour),
		Projected:          &workload.ProjectedToken{Volume: "azure-identity-token", Path: "token/azure-identity-token"},
	}
	b.write(w, b.assertion(w, nil))
	return w
}

// assertion returns a service account token of w, after the change to its
// claims.
func (b *bench) assertion(w workload.Workload, change func(jwt.MapClaims)) string {
	claims := jwt.MapClaims{
		"iss": "https://issuer.example",
		"sub": w.Subject(),
		"aud": []string{workload.TokenAudience},
		"exp": b.clock.Now().Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{
			"namespace": w.Namespace,
			"pod":       map[string]any{"name": w.PodName, "uid": w.PodUID},
		},
	}
	if change != nil {
		change(claims)
	}
	signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte("key of the test"))
	if err != nil {
		b.t.Fatal(err)
	}
	return signed
}

// write lays the volume out as the kubelet does: the path's first part is a
// link into ..data, itself a link to a directory with a time in its name.
func (b *bench) write(w workload.Workload, assertion string) {
	b.t.Helper()
	volume := b.volume(w)
	first, _, _ := strings.Cut(w.Projected.Path, "/")
	file := filepath.Join(volume, "..2026_01_01", w.Projected.Path)
	_ = os.RemoveAll(volume)
	for _, err := range []error{
		os.MkdirAll(filepath.Dir(file), 0o755),
		os.WriteFile(file, []byte(assertion), 0o600),
		os.Symlink("..2026_01_01", filepath.Join(volume, "..data")),
		os.Symlink(filepath.Join("..data", first), filepath.Join(volume, first)),
	} {
		if err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *bench) volume(w workload.Workload) string {
	return filepath.Join(b.dir, "pods", w.PodUID, "volumes", "kubernetes.io~projected", w.Projected.Volume)
}

// patience is how long the broker has its callers wait.
const patience = 25 * time.Second

func (b *bench) token(w workload.Workload, r workload.TokenRequest) (workload.Token, error) {
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	return b.engine.Token(ctx, w, r)
}

// once asks without waiting for a second try.
func (b *bench) once(w workload.Workload, r workload.TokenRequest) error {
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Millisecond)
	defer cancel()
	_, err := b.engine.Token(ctx, w, r)
	return err
}

func (b *bench) mustToken(w workload.Workload, r workload.TokenRequest) workload.Token {
	b.t.Helper()
	token, err := b.token(w, r)
	if err != nil {
		b.t.Fatalf("Token: %v", err)
	}
	return token
}

// wantToken is mustToken for a goroutine of its own.
func (b *bench) wantToken(w workload.Workload, r workload.TokenRequest) {
	if _, err := b.token(w, r); err != nil {
		b.t.Errorf("Token: %v", err)
	}
}

// run has tokens refreshed until the test ends.
func (b *bench) run() {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := b.engine.Run(ctx); err != nil {
			b.t.Error(err)
		}
	}()
	b.t.Cleanup(func() { stop(); <-ended })
}

// advance lets time pass in a bubble, and what it sets off end.
func (b *bench) advance(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
