package status

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Leftovers returns the socket in stateDir that an agent left which had no time
// to remove it. The directory itself is not the agent's to remove: it may be a
// mount.
func Leftovers(stateDir string) ([]workload.Leftover, error) {
	path := filepath.Join(stateDir, socketName)
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("status: look for the socket: %w", err)
	}
	return []workload.Leftover{{
		What:   "socket " + path,
		Remove: func() error { return removeStale(path) },
	}}, nil
}

// Answers reports whether an agent answers in stateDir, ready or not. Where
// that cannot be told, the error is not nil.
func Answers(ctx context.Context, stateDir string) (bool, error) {
	conn, err := dial(ctx, filepath.Join(stateDir, socketName))
	switch {
	case err == nil:
		return true, conn.Close()
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return false, nil
	default:
		return false, fmt.Errorf("status: is an agent at %s: %w", stateDir, err)
	}
}
