package main

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/sidestep-agent/sidestep/test/suite"
)

// Whoever has the sources, the toolchain and the authorities can tell by its
// digest that an image is made of them: where they lie makes no difference, and
// neither do the files that .dockerignore keeps from the build.
func TestImageBuiltElsewhereIsTheSame(t *testing.T) {
	suite.Need(t, "test-image") // two images are built and compressed
	elsewhere := filepath.Join(t.TempDir(), "another", "place")
	for _, name := range []string{"go.mod", "go.sum", "Dockerfile", "cmd/agent", "pkg"} {
		copyTree(t, filepath.Join(root, name), filepath.Join(elsewhere, name))
	}
	here, there := builtImage(t, root), builtImage(t, elsewhere)
	if here != there {
		t.Errorf("built here %s, elsewhere %s", here, there)
	}
}

// builtImage builds the image of the repository at root, and returns the
// digest of its archive.
func builtImage(t *testing.T, root string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "image.tar")
	err := run(t.Context(), root, options{arch: "amd64", out: out, version: "v1.2.3", name: "sidestep-agent:v1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// copyTree copies a file, or a directory without its tests.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if ignored, err := filepath.Match("*_test.go", d.Name()); ignored || err != nil {
			return err
		}
		below, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, below)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		return os.WriteFile(target, data, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}
