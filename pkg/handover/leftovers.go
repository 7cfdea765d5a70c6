package handover

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Leftovers returns the lock and the socket in stateDir, which stay when their
// holder had no time to remove them; the lock always does. No agent may run.
func Leftovers(stateDir string) ([]workload.Leftover, error) {
	var all []workload.Leftover
	for _, name := range []string{lockName, socketName} {
		path := filepath.Join(stateDir, name)
		_, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return all, fmt.Errorf("handover: look for %s: %w", path, err)
		}
		all = append(all, workload.Leftover{What: "file " + path, Remove: func() error { return remove(path) }})
	}
	return all, nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("handover: %w", err)
	}
	return nil
}
