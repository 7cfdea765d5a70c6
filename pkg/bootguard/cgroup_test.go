package bootguard

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Where there is no cgroup v2 no directory is made that would look like one.
// What is made on it, test/boot shows.
func TestMakeKubepodsElsewhere(t *testing.T) {
	root := t.TempDir()
	err := MakeKubepods(root, filepath.Join(root, "kubepods"))
	if !errors.Is(err, ErrNoCgroup2) {
		t.Errorf("%v, want ErrNoCgroup2", err)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) != 0 {
		t.Errorf("made %v, %v", left, err)
	}
}
