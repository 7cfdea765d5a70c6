package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ErrUnusable is returned by Read for a snapshot that does not hold here.
var ErrUnusable = errors.New("snapshot: cannot be used")

const (
	fileName = "pods.snapshot"
	// maxSize bounds what is read and written: the file is in memory, and that
	// counts as the agent's.
	maxSize = 32 << 20
)

// Origin says for whom a snapshot holds: it is used where all of it is equal.
type Origin struct {
	Format int    `json:"format"` // of the content
	Node   string `json:"node"`   // its name in the cluster
	BootID string `json:"bootId"`
}

// header is the first line of the file, as JSON; the content follows.
type header struct {
	Origin
	Taken  time.Time `json:"taken"`
	SHA256 string    `json:"sha256"` // of the content, in hex
}

func digest(content []byte) string { return fmt.Sprintf("%x", sha256.Sum256(content)) }

// File is the snapshot in a state directory. One process at a time may write.
type File struct {
	path   string
	origin Origin
}

// New returns the file in stateDir, which need not be there yet.
func New(stateDir string, origin Origin) *File {
	return &File{path: filepath.Join(stateDir, fileName), origin: origin}
}

// BootID returns what the kernel calls the time since it started, from the
// procfs at proc (random(4)).
func BootID(proc string) (string, error) {
	id, err := os.ReadFile(filepath.Join(proc, "sys/kernel/random/boot_id"))
	if err != nil {
		return "", fmt.Errorf("snapshot: read the boot id: %w", err)
	}
	return strings.TrimSpace(string(id)), nil
}

// Write puts content in the place of what was there, at a stroke, for the
// agent's own user alone. After an error what was there still is.
func (f *File) Write(content []byte, taken time.Time) error {
	head, err := json.Marshal(header{f.origin, taken, digest(content)})
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if len(head)+1+len(content) > maxSize {
		return fmt.Errorf("snapshot: %d bytes are too many", len(content))
	}
	next := f.next()
	if err := remove(next); err != nil { // of an agent that was killed
		return err
	}
	// It need not reach a disk: after the next boot it holds no more.
	err = writeNew(next, append(append(head, '\n'), content...))
	if err == nil {
		err = os.Rename(next, f.path)
	}
	if err != nil {
		return fmt.Errorf("snapshot: write: %w", errors.Join(err, remove(next)))
	}
	return nil
}

// next is where a snapshot is while it is being written.
func (f *File) next() string { return f.path + ".next" }

func writeNew(path string, text []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	return errors.Join(err, file.Close())
}

// Read returns the content and the time at which it was written. Where there
// is none the error satisfies errors.Is with fs.ErrNotExist; where it is not
// whole, not the agent's own, or of another node, boot or form, it is
// ErrUnusable.
func (f *File) Read() (content []byte, taken time.Time, err error) {
	text, err := readOwn(f.path)
	if err != nil {
		return nil, time.Time{}, err
	}
	line, content, whole := bytes.Cut(text, []byte("\n"))
	var h header
	if err := json.Unmarshal(line, &h); err != nil || !whole {
		return nil, time.Time{}, fmt.Errorf("%w: %s has no header", ErrUnusable, f.path)
	}
	if h.Origin != f.origin {
		return nil, time.Time{}, fmt.Errorf("%w: %s is of %+v, and this is %+v", ErrUnusable, f.path, h.Origin, f.origin)
	}
	if h.SHA256 != digest(content) {
		return nil, time.Time{}, fmt.Errorf("%w: %s is not as it was written", ErrUnusable, f.path)
	}
	return content, h.Taken, nil
}

// readOwn reads a file that only the agent's user can have written, as all
// that pods are comes from it.
func readOwn(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	owner := st.Sys().(*syscall.Stat_t).Uid
	if st.Mode() != 0o600 || int(owner) != os.Geteuid() {
		return nil, fmt.Errorf("%w: %s is %s of user %d, and not the agent's own", ErrUnusable, path, st.Mode(), owner)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	if len(text) > maxSize {
		return nil, fmt.Errorf("%w: %s is too long", ErrUnusable, path)
	}
	return text, nil
}

// Remove removes the snapshot. One that is not there is no error.
func (f *File) Remove() error { return remove(f.path) }

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("snapshot: %w", err)
	}
	return nil
}
