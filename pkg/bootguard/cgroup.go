package bootguard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrNoCgroup2 means that the path given as cgroup v2 mount is none.
var ErrNoCgroup2 = errors.New("bootguard: not a cgroup v2 mount")

// MakeKubepods makes the pods' cgroup below root, the cgroup v2 mount, if the
// kubelet has not made it yet. A kubelet that finds it uses it, with either
// cgroup driver, and systemd takes the directory for its slice of that name.
// Elsewhere than on cgroup v2 nothing is made, and the error is ErrNoCgroup2.
func MakeKubepods(root, kubepods string) error {
	var mount unix.Statfs_t
	if err := unix.Statfs(root, &mount); err != nil {
		return fmt.Errorf("bootguard: statfs %s: %w", root, err)
	}
	if mount.Type != unix.CGROUP2_SUPER_MAGIC {
		return fmt.Errorf("%w: %s: set --cgroup-root", ErrNoCgroup2, root)
	}
	rel, err := filepath.Rel(root, kubepods)
	if err != nil || rel == "." || !filepath.IsLocal(rel) {
		return fmt.Errorf("bootguard: %s is not below the cgroup mount %s", kubepods, root)
	}
	if err := os.MkdirAll(kubepods, 0o755); err != nil {
		return fmt.Errorf("bootguard: make the pods' cgroup: %w", err)
	}
	return nil
}
