package bootguard

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// scratchPrefix begins the names of files that are not complete yet.
const scratchPrefix = ".sidestep-"

// WriteFile gives the file this content and mode at a stroke: whoever reads it,
// after a crash or a loss of power too, finds the old content or the new. A
// file that has them already is not written, so that a full disk matters only
// to a change. Its directory is made if it is missing.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	if isWritten(path, data, mode) {
		return nil
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("bootguard: %w", err)
	}
	err := replace(path, func(scratch string) error { return writeSynced(scratch, data, mode) })
	if err != nil {
		return fmt.Errorf("bootguard: write %s: %w", path, err)
	}
	return nil
}

func isWritten(path string, data []byte, mode fs.FileMode) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != mode || info.Size() != int64(len(data)) {
		return false
	}
	old, err := os.ReadFile(path)
	return err == nil && bytes.Equal(old, data)
}

// writeLink makes path a symbolic link to target, at a stroke.
func writeLink(path, target string) error {
	if old, err := os.Readlink(path); err == nil && old == target {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("bootguard: %w", err)
	}
	err := replace(path, func(scratch string) error { return os.Symlink(target, scratch) })
	if err != nil {
		return fmt.Errorf("bootguard: link %s: %w", path, err)
	}
	return nil
}

// replace has write make a file of another name, and gives it the name path.
func replace(path string, write func(scratch string) error) (err error) {
	dir := filepath.Dir(path)
	// A directory of its own: no other file has the name then, nor a link.
	scratch, err := os.MkdirTemp(dir, scratchPrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	next := filepath.Join(scratch, "next")
	if err := write(next); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	return sync(dir)
}

func writeSynced(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	// Not by the mode of open(2), which the umask would change.
	return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
}

// sync makes the names in a directory last.
func sync(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
