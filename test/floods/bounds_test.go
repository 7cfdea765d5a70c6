package main

import (
	"testing"

	"github.com/sidestep-agent/sidestep/test/overlay"
)

// Each bound that a flood meets can be taken out of the sources as they are now.
func TestBoundsAreInTheSources(t *testing.T) {
	t.Chdir("../..")
	for _, f := range floods {
		edits, ok := without[f.bound]
		if !ok {
			t.Errorf("nothing says how to remove %q", f.bound)
		}
		if err := overlay.Apply(t.TempDir(), edits); err != nil {
			t.Errorf("%s: %v", f.bound, err)
		}
	}
}
