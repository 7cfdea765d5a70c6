package snapshot

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

// source exports what it is given.
type source struct {
	mu      sync.Mutex
	content string // "": nil
	changes chan struct{}
	exports int
}

func (s *source) Export() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exports++
	if s.content == "" {
		return nil, nil
	}
	return []byte(s.content), nil
}

func (s *source) Subscribe() (<-chan struct{}, func()) { return s.changes, func() {} }

func (s *source) set(content string) {
	s.mu.Lock()
	s.content = content
	s.mu.Unlock()
	s.changes <- struct{}{}
}

func (s *source) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exports
}

// keeping is a Keeper that runs.
type keeping struct {
	*source
	file  *File
	clock *clocktesting.FakeClock
	log   *bytes.Buffer
	end   func()
}

func keep(t *testing.T, content string) *keeping {
	t.Helper()
	k := &keeping{
		source: &source{content: content, changes: make(chan struct{}, 1)},
		file:   New(filepath.Join(t.TempDir(), "state"), here), clock: clocktesting.NewFakeClock(taken), log: &bytes.Buffer{},
	}
	check(t, os.Mkdir(filepath.Dir(k.file.path), 0o700))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	keeper := &Keeper{File: k.file, Source: k.source, Clock: k.clock, Log: slog.New(slog.NewTextHandler(k.log, nil))}
	go func() { ended <- keeper.Run(ctx) }()
	k.end = sync.OnceFunc(func() {
		cancel()
		check(t, <-ended)
	})
	t.Cleanup(k.end)
	k.await(t, "the first look", func() bool { return k.asked() == 1 && k.clock.HasWaiters() })
	return k
}

func (k *keeping) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never came: %s", what)
		}
	}
}

// has reports whether the file has the content; "": there is none.
func (k *keeping) has(content string) bool {
	got, _, err := k.file.Read()
	return string(got) == content && (err == nil) == (content != "")
}

func TestKeeperFollowsItsSource(t *testing.T) {
	k := keep(t, "one")
	if !k.has("one") {
		t.Error("nothing is written at first")
	}
	k.set("two")
	k.clock.Step(interval - 1)
	if k.asked() != 1 || !k.has("one") {
		t.Error("written twice in a second")
	}
	k.clock.Step(1)
	k.await(t, "the second", func() bool { return k.has("two") })
	if _, at, _ := k.file.Read(); !at.Equal(taken.Add(interval)) {
		t.Errorf("taken at %v", at)
	}
	k.await(t, "the pause", k.clock.HasWaiters)
	k.clock.Step(interval)
	k.set("two")
	k.await(t, "a look", func() bool { return k.asked() == 3 && k.clock.HasWaiters() })
	if _, at, _ := k.file.Read(); !at.Equal(taken.Add(interval)) {
		t.Errorf("what had not changed is written at %v", at)
	}
}

func TestKeeperWritesAtItsEnd(t *testing.T) {
	k := keep(t, "one")
	k.set("two")
	k.end()
	if !k.has("two") {
		t.Error("the last change is not written")
	}
}

// An agent that knows nothing of its own yet leaves what another one knew.
func TestKeeperLeavesTheFileUntilThereIsMore(t *testing.T) {
	k := keep(t, "")
	check(t, k.file.Write(pods, taken))
	k.clock.Step(interval)
	k.set("")
	k.await(t, "a look", func() bool { return k.asked() == 2 })
	if !k.has(string(pods)) {
		t.Error("the file is gone")
	}
}

// An old snapshot may let pods through that are steered by now.
func TestKeeperKeepsNoOldSnapshot(t *testing.T) {
	k := keep(t, "one")
	check(t, os.Mkdir(k.file.next(), 0o700)) // so that it cannot be written
	check(t, os.WriteFile(filepath.Join(k.file.next(), "in the way"), nil, 0o600))
	k.clock.Step(interval)
	k.set("two")
	k.await(t, "the removal", func() bool { return k.has("") })
	check(t, os.RemoveAll(k.file.next()))
	k.await(t, "the next try", func() bool {
		k.clock.Step(retryInterval)
		return k.has("two")
	})
	k.end()
	if n := strings.Count(k.log.String(), "no snapshot can be kept"); n != 1 {
		t.Errorf("logged %d times: %s", n, k.log)
	}
}
