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

// Leftovers returns the sockets in stateDir of agents that had no time to remove
// them, and the link to one. The directory itself is not the agent's to remove:
// it may be a mount.
func Leftovers(stateDir string) ([]workload.Leftover, error) {
	sockets, err := sockets(stateDir)
	var all []workload.Leftover
	for _, path := range sockets {
		all = append(all, workload.Leftover{What: "socket " + path, Remove: func() error { return removeStale(path) }})
	}
	link := filepath.Join(stateDir, servingName)
	if _, err := os.Readlink(link); err == nil {
		all = append(all, workload.Leftover{What: "link " + link, Remove: func() error { return removeLink(link) }})
	}
	return all, err
}

func removeLink(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("status: remove the link: %w", err)
	}
	return nil
}

// sockets returns the paths of all agents' sockets in stateDir.
func sockets(stateDir string) ([]string, error) {
	entries, err := os.ReadDir(stateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("status: look for sockets: %w", err)
	}
	var all []string
	for _, e := range entries {
		if ours, _ := filepath.Match(socketOf("*"), e.Name()); ours {
			all = append(all, filepath.Join(stateDir, e.Name()))
		}
	}
	return all, nil
}

// Answers reports whether an agent answers in stateDir, serving or not. Where
// that cannot be determined, the error is not nil.
func Answers(ctx context.Context, stateDir string) (bool, error) {
	all, err := sockets(stateDir)
	for _, path := range all {
		conn, err := dial(ctx, path)
		switch {
		case err == nil:
			return true, conn.Close()
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		default:
			return false, fmt.Errorf("status: is an agent at %s: %w", path, err)
		}
	}
	return false, err
}
