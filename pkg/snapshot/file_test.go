package snapshot

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	here  = Origin{Format: 1, Node: "node-1", BootID: "boot-1"}
	taken = time.Date(2026, 7, 1, 12, 0, 0, 5, time.UTC)
	pods  = []byte("{\"Pods\":[]}\nand a second line")
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// written returns a file that has pods in it.
func written(t *testing.T) *File {
	t.Helper()
	f := New(t.TempDir(), here)
	check(t, f.Write(pods, taken))
	return f
}

func TestReadReturnsWhatWasWritten(t *testing.T) {
	f := written(t)
	got, at, err := f.Read()
	check(t, err)
	if !bytes.Equal(got, pods) || !at.Equal(taken) {
		t.Errorf("Read = %q of %v", got, at)
	}
	check(t, f.Write(nil, taken.Add(time.Second)))
	if got, at, err = f.Read(); err != nil || len(got) != 0 || !at.Equal(taken.Add(time.Second)) {
		t.Errorf("after the second Write: %q of %v, %v", got, at, err)
	}
	entries, err := os.ReadDir(filepath.Dir(f.path))
	check(t, err)
	if len(entries) != 1 {
		t.Errorf("%d files are left", len(entries))
	}
	info, err := os.Stat(f.path)
	check(t, err)
	if info.Mode() != 0o600 {
		t.Errorf("mode %s", info.Mode())
	}
}

func TestReadWithoutASnapshot(t *testing.T) {
	if _, _, err := New(t.TempDir(), here).Read(); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrUnusable) {
		t.Errorf("Read = %v", err)
	}
}

func TestReadRefusesWhatIsNotForHere(t *testing.T) {
	for name, o := range map[string]Origin{
		"node": {Format: 1, Node: "node-2", BootID: "boot-1"},
		"boot": {Format: 1, Node: "node-1", BootID: "boot-2"},
		"form": {Format: 2, Node: "node-1", BootID: "boot-1"},
	} {
		f := written(t)
		f.origin = o
		if content, _, err := f.Read(); !errors.Is(err, ErrUnusable) || content != nil {
			t.Errorf("of another %s: %q, %v", name, content, err)
		}
	}
}

func TestReadRefusesWhatIsDamaged(t *testing.T) {
	whole, err := os.ReadFile(written(t).path)
	check(t, err)
	for name, text := range map[string][]byte{
		"empty":        nil,
		"cut off":      whole[:len(whole)-1],
		"header alone": whole[:bytes.IndexByte(whole, '\n')],
		"no header":    []byte("pods\n"),
		"changed":      bytes.Replace(whole, []byte("Pods"), []byte("pods"), 1),
		"more":         append(bytes.Clone(whole), 'x'),
		"too long":     make([]byte, maxSize+1),
	} {
		t.Run(name, func(t *testing.T) {
			f := written(t)
			check(t, os.WriteFile(f.path, text, 0o600))
			if content, _, err := f.Read(); !errors.Is(err, ErrUnusable) || content != nil {
				t.Errorf("%q, %v", content, err)
			}
		})
	}
}

// Whoever writes it decides what pods are.
func TestReadRefusesWhatOthersMayWrite(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"writable by others": func(path string) error { return os.Chmod(path, 0o620) },
		"a link": func(path string) error {
			return errors.Join(os.Rename(path, path+".real"), os.Symlink(path+".real", path))
		},
		"a directory": func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
		"another user's": func(path string) error {
			if os.Geteuid() != 0 {
				return os.Chmod(path, 0o604) // only root can give a file away
			}
			return os.Chown(path, 1, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := written(t)
			check(t, spoil(f.path))
			content, _, err := f.Read()
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("read %q, %v", content, err)
			}
		})
	}
}

// An agent that is killed while it writes leaves the last snapshot whole.
func TestWriteIsWhole(t *testing.T) {
	f := written(t)
	check(t, os.WriteFile(f.next(), []byte("half"), 0o600))
	if got, _, err := f.Read(); err != nil || !bytes.Equal(got, pods) {
		t.Errorf("beside a half one: %q, %v", got, err)
	}
	check(t, f.Write([]byte("next"), taken))
	if got, _, err := f.Read(); err != nil || string(got) != "next" {
		t.Errorf("after it: %q, %v", got, err)
	}
	if err := f.Write(make([]byte, maxSize), taken); err == nil {
		t.Error("what could not be read is written")
	}
	if got, _, err := f.Read(); err != nil || string(got) != "next" {
		t.Errorf("after a failed Write: %q, %v", got, err)
	}
}

func TestBootID(t *testing.T) {
	id, err := BootID("/proc")
	if err != nil || len(id) != 36 {
		t.Errorf("BootID = %q, %v", id, err)
	}
	if _, err := BootID(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a procfs: %v", err)
	}
}

func TestLeftovers(t *testing.T) {
	f := written(t)
	check(t, os.WriteFile(f.next(), nil, 0o600))
	for _, want := range [][]string{{"file " + f.path, "file " + f.next()}, nil} {
		all, err := Leftovers(filepath.Dir(f.path))
		check(t, err)
		var names []string
		for _, l := range all {
			names = append(names, l.What)
			check(t, errors.Join(l.Remove(), l.Remove()))
		}
		if diff := cmp.Diff(want, names); diff != "" {
			t.Errorf("leftovers (-want +got):\n%s", diff)
		}
	}
}
