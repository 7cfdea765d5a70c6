package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrInUse is returned by Serve while another agent answers on the socket.
var ErrInUse = errors.New("status: another agent answers on this socket")

// ErrNotReady is returned by Ready for an agent that answers but is not ready.
var ErrNotReady = errors.New("status: the agent is not ready")

const (
	servingName = "status.sock" // a link to the socket of the agent that serves
	reportPath  = "/status"
	readyPath   = "/readyz"
	ioTimeout   = 5 * time.Second
	dialTimeout = time.Second
)

// socketOf returns the name of an agent's own socket.
func socketOf(instance string) string { return "status-" + instance + ".sock" }

// Serve answers with what report returns, on a socket in stateDir that only
// the agent's own user can open and that is this instance's alone: during a
// hand-over a node has two agents. The directory is made if it is missing. It
// removes a socket that has no listener, and returns ErrInUse if it has one.
// It returns nil when ctx is done, with the socket removed.
func Serve(ctx context.Context, stateDir, instance string, report func() Report) error {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return fmt.Errorf("status: make the state directory: %w", err)
	}
	l, err := listen(ctx, filepath.Join(stateDir, socketOf(instance)))
	if err != nil {
		return err
	}
	defer withdraw(stateDir, instance)
	srv := &http.Server{Handler: handler(report), ReadTimeout: ioTimeout, WriteTimeout: ioTimeout}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("status: serve: %w", err)
	}
	return nil
}

// Announce makes the instance the one that Fetch asks, and removes the sockets
// of agents that were killed. Only the agent that serves calls it.
func Announce(stateDir, instance string) error {
	if err := sweep(stateDir, instance); err != nil {
		return err
	}
	next := filepath.Join(stateDir, ".next-"+socketOf(instance))
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("status: remove a stale link: %w", err)
	}
	if err := os.Symlink(socketOf(instance), next); err != nil {
		return fmt.Errorf("status: link to the socket: %w", err)
	}
	if err := os.Rename(next, filepath.Join(stateDir, servingName)); err != nil {
		return fmt.Errorf("status: link to the socket: %w", err)
	}
	return nil
}

// sweptAfter is the age from which a socket without a listener is a dead
// agent's, and not one about to listen.
const sweptAfter = time.Minute

func sweep(stateDir, instance string) error {
	all, err := sockets(stateDir)
	if err != nil {
		return err
	}
	for _, path := range all {
		st, err := os.Lstat(path)
		if err != nil || filepath.Base(path) == socketOf(instance) || time.Since(st.ModTime()) < sweptAfter {
			continue
		}
		conn, err := dial(context.Background(), path)
		if err == nil {
			_ = conn.Close()
		}
		if errors.Is(err, unix.ECONNREFUSED) {
			if err := removeStale(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// withdraw removes what Announce made, unless it is another's by now.
func withdraw(stateDir, instance string) {
	link := filepath.Join(stateDir, servingName)
	if to, err := os.Readlink(link); err == nil && to == socketOf(instance) {
		_ = os.Remove(link) // a link to nothing is as good as none
	}
}

// listen opens the socket, in place of one that a dead agent left.
func listen(ctx context.Context, path string) (net.Listener, error) {
	conn, err := dial(ctx, path)
	switch {
	case err == nil:
		_ = conn.Close()
		return nil, fmt.Errorf("%w: %s", ErrInUse, path)
	case errors.Is(err, unix.ECONNREFUSED):
		if err := removeStale(path); err != nil {
			return nil, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("status: is another agent at %s: %w", path, err)
	}
	lc := net.ListenConfig{Control: ownerOnly}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("status: listen: %w", err)
	}
	return l, nil
}

// removeStale removes a socket without a listener. What else stands at its
// path is not the agent's.
func removeStale(path string) error {
	st, err := os.Lstat(path)
	if err == nil && st.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("status: %s is not a socket: remove it or set --state-dir", path)
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("status: remove a stale socket: %w", err)
	}
	return nil
}

// ownerOnly sets the mode that bind gives the socket's file, so that there is
// no moment at which others may connect.
func ownerOnly(_, _ string, c syscall.RawConn) error {
	var chmodErr error
	err := c.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), 0o600) })
	return errors.Join(err, chmodErr)
}

func handler(report func() Report) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+reportPath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// An error here is the client's: it has gone.
		_ = json.NewEncoder(w).Encode(report())
	})
	mux.HandleFunc("GET "+readyPath, func(w http.ResponseWriter, _ *http.Request) {
		if !report().Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	return mux
}

func dial(ctx context.Context, path string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	return d.DialContext(ctx, "unix", path)
}
