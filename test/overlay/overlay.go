// Package overlay changes copies of the sources for go's -overlay, so that a
// suite can build the agent without one of its lines and show that the line is
// missed. The tree itself is left alone. It is called in the tree's root.
package overlay

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// programs is where the BPF programs' sources are.
const programs = "bpf"

// Edit replaces the one place in a file where a text stands.
type Edit struct{ File, Old, New string }

// Write recreates dir, puts the changed sources below it, with the BPF
// programs compiled if they are among them, and returns a file for -overlay.
func Write(ctx context.Context, dir string, edits []Edit) (string, error) {
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := Apply(dir, edits); err != nil {
		return "", err
	}
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	replace, object := map[string]string{}, filepath.Join(dir, "kernel.o")
	for _, e := range edits {
		if !e.ofPrograms() {
			replace[filepath.Join(here, e.File)] = filepath.Join(dir, e.File)
			continue
		}
		replace[filepath.Join(here, "pkg/intercept", "kernel_"+Arch()+"_bpfel.o")] = object
	}
	if _, err := os.Stat(filepath.Join(dir, programs)); err == nil {
		if err := compile(ctx, filepath.Join(dir, programs, "sidestep.c"), object); err != nil {
			return "", err
		}
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, text, 0o600)
}

// Apply puts the changed sources below dir. It returns an error if a text does
// not stand in its file, or stands there more than once.
func Apply(dir string, edits []Edit) error {
	for _, e := range edits {
		if e.ofPrograms() { // their headers are found beside them
			if err := copyOnce(filepath.Join(dir, programs)); err != nil {
				return err
			}
		}
		if err := e.apply(dir); err != nil {
			return err
		}
	}
	return nil
}

func (e Edit) ofPrograms() bool { return strings.HasPrefix(e.File, programs+"/") }

func copyOnce(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	return os.CopyFS(dir, os.DirFS(programs))
}

// apply changes the file's copy below dir, which may have been changed before.
func (e Edit) apply(dir string) error {
	path := filepath.Join(dir, e.File)
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		text, err = os.ReadFile(e.File)
	}
	if err != nil {
		return err
	}
	if n := strings.Count(string(text), e.Old); n != 1 {
		return fmt.Errorf("%s has %d places that read\n%s\nwant one: adapt the suite to the sources", e.File, n, e.Old)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(strings.Replace(string(text), e.Old, e.New, 1)), 0o600)
}

func compile(ctx context.Context, source, object string) error {
	clang := "clang-" + os.Getenv("CLANG_VERSION")
	out, err := exec.CommandContext(ctx, clang, "-target", "bpfel", "-O2", "-mcpu=v3", "-g",
		"-isystem", "/usr/include/x86_64-linux-gnu", "-isystem", "/usr/include/aarch64-linux-gnu",
		"-c", source, "-o", object).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", clang, err, out)
	}
	return nil
}

// Arch is the architecture as bpf2go names it.
func Arch() string {
	if runtime.GOARCH == "amd64" {
		return "x86"
	}
	return runtime.GOARCH
}
