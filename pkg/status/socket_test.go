package status

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const instance = "one"

// stateDir returns a directory whose path is short enough for a socket.
func stateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "status")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// serve runs an agent's status socket. The function ends it and waits.
func serve(t *testing.T, dir string, report func() Report) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	if err := Announce(dir, instance); err != nil {
		t.Fatal(err)
	}
	go func() { done <- Serve(ctx, dir, instance, report) }()
	for {
		if _, err := Fetch(ctx, dir); err == nil {
			break
		}
		select {
		case err := <-done:
			t.Fatalf("Serve: %v", err)
		default:
		}
	}
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
}

func TestServeAndFetch(t *testing.T) {
	dir := stateDir(t)
	stop := serve(t, dir, report)
	got, err := Fetch(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(report(), got); diff != "" {
		t.Errorf("Fetch (-want +got):\n%s", diff)
	}
	st, err := os.Stat(filepath.Join(dir, socketOf(instance)))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := st.Mode(), fs.ModeSocket|0o600; got != want {
		t.Errorf("socket's mode is %s, want %s", got, want)
	}
	stop()
	if _, err := os.Stat(filepath.Join(dir, socketOf(instance))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Serve the socket is still there: %v", err)
	}
}

func TestReady(t *testing.T) {
	dir := stateDir(t)
	var ready atomic.Bool
	defer serve(t, dir, func() Report { return Report{Ready: ready.Load()} })()
	if err := Ready(t.Context(), dir, instance); !errors.Is(err, ErrNotReady) {
		t.Errorf("Ready = %v, want ErrNotReady", err)
	}
	ready.Store(true)
	if err := Ready(t.Context(), dir, instance); err != nil {
		t.Errorf("Ready = %v", err)
	}
}

// The one that serves is asked, and each for itself whether it is ready.
func TestTwoAgents(t *testing.T) {
	dir := stateDir(t)
	stop := serve(t, dir, func() Report { return Report{Node: instance} })
	ctx, cancel := context.WithCancel(t.Context())
	other := make(chan error, 1)
	go func() { other <- Serve(ctx, dir, "two", func() Report { return Report{Node: "two", Ready: true} }) }()
	for Ready(t.Context(), dir, "two") != nil {
		if ctx.Err() != nil {
			t.Fatal("the second agent does not answer")
		}
	}
	wantServing := func(want string) {
		t.Helper()
		if got, err := Fetch(t.Context(), dir); err != nil || got.Node != want {
			t.Errorf("Fetch = %q, %v; want %q", got.Node, err, want)
		}
	}
	wantServing(instance)
	if err := Ready(t.Context(), dir, instance); !errors.Is(err, ErrNotReady) {
		t.Errorf("Ready = %v of the first, want ErrNotReady", err)
	}
	if err := Announce(dir, "two"); err != nil {
		t.Fatal(err)
	}
	wantServing("two")
	stop() // and leaves the other's link alone
	wantServing("two")
	cancel()
	if err := <-other; err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestServeLeavesALiveAgentAlone(t *testing.T) {
	dir := stateDir(t)
	defer serve(t, dir, report)()
	if err := Serve(t.Context(), dir, instance, report); !errors.Is(err, ErrInUse) {
		t.Errorf("second Serve = %v, want ErrInUse", err)
	}
	if _, err := Fetch(t.Context(), dir); err != nil {
		t.Errorf("the first agent does not answer any more: %v", err)
	}
}

func TestServeTakesTheSocketOfADeadAgent(t *testing.T) {
	dir := stateDir(t)
	staleSocket(t, dir)
	serve(t, dir, report)()
}

// An agent that takes its turn removes what those left that were killed, and
// neither a living one's socket nor one that is just being made.
func TestAnnounceRemovesDeadAgentsSockets(t *testing.T) {
	dir := stateDir(t)
	staleSocket(t, dir)
	dead := filepath.Join(dir, socketOf("dead"))
	for _, name := range []string{"dead", "new"} {
		if err := os.Rename(filepath.Join(dir, socketOf(instance)), filepath.Join(dir, socketOf(name))); err != nil {
			t.Fatal(err)
		}
		staleSocket(t, dir)
	}
	long := time.Now().Add(-2 * sweptAfter)
	if err := os.Chtimes(dead, long, long); err != nil {
		t.Fatal(err)
	}
	if err := Announce(dir, instance); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the dead agent's socket is still there: %v", err)
	}
	for _, name := range []string{"new", instance} {
		if _, err := os.Stat(filepath.Join(dir, socketOf(name))); err != nil {
			t.Errorf("the socket of %s: %v", name, err)
		}
	}
}

func TestServeKeepsAFileThatIsNoSocket(t *testing.T) {
	dir := stateDir(t)
	path := filepath.Join(dir, socketOf(instance))
	if err := os.WriteFile(path, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Serve(t.Context(), dir, instance, report); err == nil {
		t.Error("Serve = nil")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "kept" {
		t.Errorf("the file has %q, %v", got, err)
	}
}

func TestFetchWithoutAnAgent(t *testing.T) {
	none, stale := stateDir(t), stateDir(t)
	staleSocket(t, stale)
	for _, dir := range []string{none, stale, filepath.Join(none, "missing")} {
		_, err := Fetch(t.Context(), dir)
		if err == nil {
			t.Fatal("Fetch without an agent: no error")
		}
		for _, want := range []string{dir, "sidestep-agent pod", "--state-dir"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("error %q does not name %q", err, want)
			}
		}
	}
}

// staleSocket leaves a socket as an agent does that was killed.
func staleSocket(t *testing.T, dir string) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, socketOf(instance)))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
