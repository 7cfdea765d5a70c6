package main

import (
	"testing"

	"github.com/sidestep-agent/sidestep/test/overlay"
)

// Each leak can be put into the sources as they are now.
func TestReleasesAreInTheSources(t *testing.T) {
	t.Chdir("../..")
	for _, l := range leaks {
		if err := overlay.Apply(t.TempDir(), l.edits); err != nil {
			t.Errorf("%s: %v", l.name, err)
		}
	}
}
