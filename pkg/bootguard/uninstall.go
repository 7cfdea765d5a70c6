package bootguard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// ErrOutOfReach means that there is a boot guard on this node, whose files are
// not where this process looks for them: it runs in a container that has not
// been given them.
var ErrOutOfReach = errors.New("bootguard: the boot guard is installed on this node, and its files are out of reach: " +
	"remove it first (kubectl apply -k manifests/uninstall-boot-guard), or the next boot closes the node again")

// Leftovers returns what the boot guard has on the host, in the order in which
// it is to be removed: first of all the link, without which a boot finds no
// unit. The error is ErrOutOfReach where there is more than can be seen.
func (f Files) Leftovers() ([]workload.Leftover, error) {
	state, err := f.Current()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(f.at(f.UnitDir)); errors.Is(err, fs.ErrNotExist) && state != Absent {
		return nil, ErrOutOfReach
	}
	var all []workload.Leftover
	for _, path := range f.inOrder() {
		_, err := os.Lstat(f.at(path))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return all, fmt.Errorf("bootguard: %w", err)
		}
		all = append(all, workload.Leftover{What: "file " + path, Remove: func() error { return f.remove(path) }})
	}
	return all, nil
}

// inOrder returns the paths of all files that there may be, those that an
// installation left that did not come to its end among them.
func (f Files) inOrder() []string {
	var all []string
	// Whichever unit the kubelet's was.
	all = append(all, f.glob(filepath.Join(f.UnitDir, "*.wants", UnitName))...)
	all = append(all, f.unit(), f.Program, f.Config)
	var dirs []string
	for _, path := range append(all, f.marker()) {
		dirs = append(dirs, filepath.Dir(path))
	}
	slices.Sort(dirs)
	for _, dir := range slices.Compact(dirs) {
		all = append(all, f.glob(filepath.Join(dir, scratchPrefix+"*"))...)
	}
	return append(all, f.marker())
}

func (f Files) glob(pattern string) []string {
	found, _ := filepath.Glob(f.at(pattern)) // the patterns are good
	for i, path := range found {
		found[i] = filepath.Join("/", strings.TrimPrefix(path, f.Root))
	}
	return found
}

// remove removes a file. The directories of programs and settings stay, since
// they may be mounts.
func (f Files) remove(path string) error {
	if err := os.RemoveAll(f.at(path)); err != nil {
		return fmt.Errorf("bootguard: %w", err)
	}
	dir := filepath.Dir(path)
	if !strings.HasSuffix(dir, ".wants") {
		return nil
	}
	// systemd has no use for an empty one; others may have links in it.
	err := os.Remove(f.at(dir))
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) {
		return nil
	}
	return fmt.Errorf("bootguard: %w", err)
}
