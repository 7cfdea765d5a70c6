package config

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
)

// A mounted ConfigMap as the kubelet lays it out: agent.yaml → ..data/agent.yaml,
// ..data → a directory for each version.
type configMap struct {
	t   *testing.T
	dir string
}

func newConfigMap(t *testing.T, data string) configMap {
	m := configMap{t, t.TempDir()}
	m.set("1", data)
	if err := os.Symlink(filepath.Join("..data", "agent.yaml"), m.path()); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m configMap) path() string { return filepath.Join(m.dir, "agent.yaml") }

func (m configMap) set(version, data string) {
	m.t.Helper()
	if err := os.Mkdir(filepath.Join(m.dir, version), 0o700); err != nil {
		m.t.Fatal(err)
	}
	write(m.t, filepath.Join(m.dir, version, "agent.yaml"), data)
	next := filepath.Join(m.dir, "..data_tmp")
	if err := os.Symlink(version, next); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(m.dir, "..data")); err != nil {
		m.t.Fatal(err)
	}
}

// seen records what a watcher hands out.
type seen struct {
	applied chan *AgentConfiguration
	refused chan error
}

func newSeen() seen {
	return seen{make(chan *AgentConfiguration, 10), make(chan error, 10)}
}

func (s seen) onChange(c *AgentConfiguration) { s.applied <- c }
func (s seen) onRefused(err error)            { s.refused <- err }

func newTestWatcher(t *testing.T, path string) (*Watcher, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewRegistry()
	return openWatcher(t, WatcherOptions{Path: path, StateDir: t.TempDir(), Registerer: reg}), reg
}

// openWatcher returns a watcher with what the options leave out.
func openWatcher(t *testing.T, o WatcherOptions) *Watcher {
	t.Helper()
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	o.Log, o.Clock = slog.New(slog.DiscardHandler), clock.RealClock{}
	w, err := NewWatcher(o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// run runs the watcher until the test ends, or the function is called.
func (w *Watcher) run(t *testing.T, s seen) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx, s.onChange, s.onRefused) }()
	stop = sync.OnceFunc(func() { cancel(); receive(t, ended) })
	t.Cleanup(stop)
	return stop
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

func TestRunSeesTheSwapOfAConfigMap(t *testing.T) {
	m := newConfigMap(t, header)
	w, _ := newTestWatcher(t, m.path())
	if got := w.Initial().Mode; got != ModeEnforce {
		t.Fatalf("initial mode = %s", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	s := newSeen()
	go func() { ended <- w.Run(ctx, s.onChange, s.onRefused) }()

	m.set("2", header+"mode: audit\n")
	if got := receive(t, s.applied).Mode; got != ModeAudit {
		t.Errorf("mode = %s, want audit", got)
	}
	cancel()
	if err := receive(t, ended); err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestReloadHandsOnEachContentOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	write(t, path, header)
	w, reg := newTestWatcher(t, path)
	s := newSeen()
	step := func(applied, refused int, applies float64) {
		t.Helper()
		w.reload(s.onChange, s.onRefused)
		w.reload(s.onChange, s.onRefused)
		if len(s.applied) != applied || len(s.refused) != refused {
			t.Fatalf("applied %d, refused %d; want %d and %d", len(s.applied), len(s.refused), applied, refused)
		}
		if got := testutil.ToFloat64(w.successful); got != applies {
			t.Fatalf("after %d and %d the newest is applied: %v, want %v", applied, refused, got, applies)
		}
	}
	step(0, 0, 1)
	write(t, path, header+"mode: audit\n")
	step(1, 0, 1)
	write(t, path, header+"mode: off\n")
	step(1, 1, 0)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	step(1, 2, 0)
	write(t, path, header+"mode: audit\n")
	step(2, 2, 1)

	want := map[string]float64{"applied": 2, "refused": 2}
	for result, n := range want {
		if got := testutil.ToFloat64(w.reloads.WithLabelValues(result)); got != n {
			t.Errorf("reloads{result=%q} = %v, want %v", result, got, n)
		}
	}
	if n, err := testutil.GatherAndCount(reg, "sidestep_config_reloads_total"); err != nil || n != 2 {
		t.Errorf("registered series = %d, %v", n, err)
	}
}

// A directory that was replaced sends no notification any more.
func TestRunPollsWhereNotificationFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "config")
	path := filepath.Join(dir, "agent.yaml")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, path, header)
	w, _ := newTestWatcher(t, path)
	fake := clocktesting.NewFakeClock(time.Now())
	w.clock = fake
	s := newSeen()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx, s.onChange, s.onRefused) }()
	defer func() { cancel(); receive(t, ended) }()

	write(t, path, header+"mode: off\n")
	for len(s.refused) == 0 {
		fake.Step(settle)
		time.Sleep(time.Millisecond)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, path, header+"mode: audit\n")
	for len(s.applied) == 0 {
		fake.Step(pollInterval)
		time.Sleep(time.Millisecond)
	}
}

// silent is a source that tells nothing by itself.
type silent struct{}

func (silent) String() string                                    { return "the source" }
func (silent) Follow(context.Context, func(error)) <-chan Update { return nil }

// The kubelet brings versions in their order, but late: one that was replaced
// since is not new.
func TestALateFileIsNotNew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	write(t, path, header)
	w := openWatcher(t, WatcherOptions{Path: path, StateDir: t.TempDir(), Source: silent{}})
	got := newSeen()
	tell := func(text string) { w.takeUpdate(Update{Text: []byte(text)}, got.onChange, got.onRefused) }
	bring := func(text string) { write(t, path, text); w.reload(got.onChange, got.onRefused) }
	expect := func(what string, mode Mode, applied int) {
		t.Helper()
		if len(got.applied) != applied || len(got.refused) > 0 {
			t.Fatalf("%s: %d applied, %d refused", what, len(got.applied), len(got.refused))
		}
		if applied > 0 && (<-got.applied).Mode != mode {
			t.Fatalf("%s: another mode than %s", what, mode)
		}
	}
	const audit, deny = header + "mode: audit\n", header + "unlabeled: deny\n"
	tell(header)
	expect("the same", "", 0)
	tell(audit)
	expect("sent", ModeAudit, 1)
	tell(deny)
	expect("sent again", ModeEnforce, 1)
	bring(audit)
	expect("the file brings what was replaced", "", 0)
	bring(deny)
	expect("the file has the newest", "", 0)
	// A watch that is silent, and a kubelet that knows better.
	bring(header + "mode: audit\nunlabeled: deny\n")
	expect("the file brings what no update had", ModeAudit, 1)
	tell(audit)
	expect("sent what was replaced once", ModeAudit, 1)
	bring(audit)
	expect("the file follows", "", 0)
}
