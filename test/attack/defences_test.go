package main

import (
	"testing"

	"github.com/sidestep-agent/sidestep/test/overlay"
)

// Each defence can be taken out of the sources as they are now.
func TestDefencesAreInTheSources(t *testing.T) {
	t.Chdir("../..")
	for _, d := range defences {
		if err := overlay.Apply(t.TempDir(), d.changes()); err != nil {
			t.Errorf("%s: %v", d.name, err)
		}
	}
}
