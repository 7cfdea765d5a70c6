package handover

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var quiet = slog.New(slog.DiscardHandler)

// stateDir returns a directory whose path is short enough for a socket.
func stateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "handover")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func acquire(t *testing.T, dir string) *Lock {
	t.Helper()
	l, err := Acquire(dir)
	check(t, err)
	return l
}

func state(t *testing.T) State {
	t.Helper()
	e := State{Tokens: [][]byte{[]byte("one"), []byte("two")}}
	for _, l := range []Listener{
		{Role: Node, Address: "127.0.0.1:0"}, {Role: Pod, PodUID: "uid", Inode: 4711}, {Role: Metrics},
	} {
		var err error
		l.Listener, err = net.Listen("tcp4", "127.0.0.1:0")
		check(t, err)
		e.Listeners = append(e.Listeners, l)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// holder offers the state to the first that asks, and lets go. It closes its
// copies in between, as an agent does.
func holder(t *testing.T, l *Lock, e State) (gone <-chan error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		s, err := l.Successor(t.Context(), quiet)
		if err == nil {
			err = s.Offer(e)
		}
		if err == nil {
			err = errors.Join(e.Close(), s.Release())
		}
		done <- err
	}()
	return done
}

func TestOneHolderAtATime(t *testing.T) {
	dir := stateDir(t)
	l := acquire(t, dir)
	if _, err := Acquire(dir); !errors.Is(err, ErrHeld) {
		t.Errorf("second Acquire = %v, want ErrHeld", err)
	}
	info, err := os.Stat(filepath.Join(dir, socketName))
	check(t, err)
	if got, want := info.Mode(), fs.ModeSocket|0o600; got != want {
		t.Errorf("socket's mode is %s, want %s", got, want)
	}
	check(t, l.Release())
	if _, err := os.Stat(filepath.Join(dir, socketName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Release the socket is still there: %v", err)
	}
	check(t, acquire(t, dir).Release())
}

// A connection that waits in a listener's queue is served by the successor,
// and there is no moment at which the lock has no holder.
func TestHandOver(t *testing.T) {
	dir := stateDir(t)
	e := state(t)
	client, err := net.Dial("tcp4", e.Listeners[1].Addr().String())
	check(t, err)
	defer client.Close()
	gone := holder(t, acquire(t, dir), e)
	lock, got, err := Take(t.Context(), dir)
	check(t, err)
	check(t, <-gone)
	defer got.Close()
	if _, err := Acquire(dir); !errors.Is(err, ErrHeld) {
		t.Errorf("Acquire after the hand-over = %v, want ErrHeld", err)
	}
	c, err := got.Listeners[1].Accept()
	check(t, err)
	if c.RemoteAddr().String() != client.LocalAddr().String() {
		t.Errorf("accepted %s, want %s", c.RemoteAddr(), client.LocalAddr())
	}
	c.Close()
	if diff := cmp.Diff(e, *got, cmpopts.IgnoreFields(Listener{}, "Listener"), cmpopts.IgnoreFields(State{}, "Version")); diff != "" {
		t.Errorf("state (-given +taken):\n%s", diff)
	}
	// The next one asks at the same socket.
	gone = holder(t, lock, State{})
	next, _, err := Take(t.Context(), dir)
	check(t, err)
	check(t, <-gone)
	check(t, next.Release())
}

// A successor that dies half-way leaves the holder with all that it had.
func TestSuccessorDies(t *testing.T) {
	dir := stateDir(t)
	l := acquire(t, dir)
	e := state(t)
	for name, hear := range map[string]int{"after asking": 0, "half-way": 3, "after the last": 8} {
		c := dial(t, dir)
		check(t, send(c, message{Kind: hello, Version: 1}, nil))
		gone := make(chan error, 1)
		go func() {
			s, err := l.Successor(t.Context(), quiet)
			if err == nil {
				err = errors.Join(s.Offer(e), s.Close())
			}
			gone <- err
		}()
		for range hear {
			_, file, err := receive(c)
			check(t, err)
			if file != nil {
				file.Close()
			}
		}
		c.Close()
		if err := <-gone; err == nil {
			t.Errorf("%s: the holder believes that it was heard", name)
		}
		if _, err := Acquire(dir); !errors.Is(err, ErrHeld) {
			t.Errorf("%s: Acquire = %v, want ErrHeld", name, err)
		}
	}
	gone := holder(t, l, e)
	lock, got, err := Take(t.Context(), dir)
	check(t, err)
	check(t, errors.Join(<-gone, got.Close(), lock.Release()))
}

// A holder that dies half-way leaves nothing that the successor keeps, and the
// lock to be had. Once all has come the successor has both.
func TestHolderDies(t *testing.T) {
	for name, say := range map[string][]kind{
		"before a word": nil, "half-way": {lock, socket, token}, "after the last": {lock, socket, token, whole},
	} {
		t.Run(name, func(t *testing.T) {
			dir := stateDir(t)
			l := acquire(t, dir)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				s, err := l.Successor(t.Context(), quiet)
				if err != nil {
					return
				}
				for _, k := range say {
					switch k {
					case lock:
						_ = send(s.conn, message{Kind: k}, l.file)
					case socket:
						_ = send(s.conn, message{Kind: k}, l.socket)
					default:
						_ = send(s.conn, message{Kind: k}, nil)
					}
				}
				if len(say) == 4 {
					_ = expect(s.conn, taken)
				}
				_ = errors.Join(l.forget(), s.Close()) // as the kernel does
			}()
			lock, _, err := Take(t.Context(), dir)
			<-ended
			if len(say) < 4 && err == nil {
				t.Fatal("Take = nil")
			}
			if len(say) == 4 { // all had come, and no other process has it
				check(t, errors.Join(err, lock.Release()))
			}
			check(t, acquire(t, dir).Release())
		})
	}
}

func TestVacant(t *testing.T) {
	dir := stateDir(t)
	l := acquire(t, dir)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Vacant(over, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("Vacant = %v while the lock is held", err)
	}
	check(t, l.Release())
	check(t, Vacant(t.Context(), dir))
	check(t, acquire(t, dir).Release())
}

func TestLeftovers(t *testing.T) {
	dir := stateDir(t)
	check(t, acquire(t, dir).forget()) // as the kernel does when a process ends
	for _, want := range []int{2, 0} {
		all, err := Leftovers(dir)
		check(t, err)
		if len(all) != want {
			t.Errorf("%d leftovers, want %d: %+v", len(all), want, all)
		}
		for _, l := range all {
			check(t, l.Remove())
		}
	}
}

func dial(t *testing.T, dir string) *net.UnixConn {
	t.Helper()
	c, err := net.Dial(network, filepath.Join(dir, socketName))
	check(t, err)
	return c.(*net.UnixConn)
}
