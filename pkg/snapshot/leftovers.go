package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Leftovers returns the snapshot in stateDir, and what an agent left that was
// killed while it wrote one. No agent may run.
func Leftovers(stateDir string) ([]workload.Leftover, error) {
	f := New(stateDir, Origin{})
	var all []workload.Leftover
	for _, path := range []string{f.path, f.next()} {
		_, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return all, fmt.Errorf("snapshot: look for it: %w", err)
		}
		all = append(all, workload.Leftover{What: "file " + path, Remove: func() error { return remove(path) }})
	}
	return all, nil
}
