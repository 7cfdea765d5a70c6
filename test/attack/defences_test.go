package main

import (
	"os"
	"path/filepath"
	"testing"
)

// Each defence can be taken out of the sources as they are now.
func TestDefencesAreInTheSources(t *testing.T) {
	t.Chdir("../..")
	for _, d := range defences {
		dir := t.TempDir()
		if err := os.CopyFS(filepath.Join(dir, "bpf"), os.DirFS("bpf")); err != nil {
			t.Fatal(err)
		}
		for _, e := range d.edits {
			if err := e.apply(dir); err != nil {
				t.Errorf("%s: %v", d.name, err)
			}
		}
	}
}
