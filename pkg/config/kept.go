package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// keptName is the file in the state directory that has the last good version.
const keptName = "config.last-good.yaml"

// kept is the last good version of the configuration, as a file that agents of
// one node leave to each other.
type kept struct{ path string }

func newKept(stateDir string) kept { return kept{filepath.Join(stateDir, keptName)} }

// next is where a version is while it is being written.
func (k kept) next() string { return k.path + ".next" }

// write puts text in the place of what was there, at a stroke, for the agent's
// own user alone.
func (k kept) write(text []byte) error {
	if err := os.MkdirAll(filepath.Dir(k.path), 0o700); err != nil {
		return fmt.Errorf("keep the configuration: %w", err)
	}
	if err := remove(k.next()); err != nil { // of an agent that was killed
		return err
	}
	// It need not reach a disk: the state directory ends with the boot.
	file, err := os.OpenFile(k.next(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("keep the configuration: %w", err)
	}
	_, err = file.Write(text)
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(k.next(), k.path)
	}
	if err != nil {
		return fmt.Errorf("keep the configuration: %w", errors.Join(err, remove(k.next())))
	}
	return nil
}

// errNotOwn means that others than the agent may have written the file.
var errNotOwn = errors.New("it is not the agent's own: remove it")

// read returns the version that was kept. The agent obeys what is in it, so a
// file that others may write, or a link, is not taken.
func (k kept) read() ([]byte, error) {
	st, err := os.Lstat(k.path)
	if err != nil {
		return nil, fmt.Errorf("read the kept configuration: %w", err)
	}
	if st.Mode() != 0o600 {
		return nil, fmt.Errorf("%s is %s: %w", k.path, st.Mode(), errNotOwn)
	}
	text, err := os.ReadFile(k.path)
	if err != nil {
		return nil, fmt.Errorf("read the kept configuration: %w", err)
	}
	return text, nil
}

func (k kept) remove() error { return remove(k.path) }

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the kept configuration: %w", err)
	}
	return nil
}

// Leftovers returns the paths of the version that was kept in stateDir, and of
// what an agent left that was killed while it wrote one. No agent may run.
func Leftovers(stateDir string) ([]string, error) {
	k := newKept(stateDir)
	var all []string
	for _, path := range []string{k.path, k.next()} {
		_, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return all, fmt.Errorf("look for the kept configuration: %w", err)
		}
		all = append(all, path)
	}
	return all, nil
}
