package changes

import (
	"testing"

	"github.com/sidestep-agent/sidestep/test/overlay"
)

// Each change can be made in the sources as they are now.
func TestChangesFitTheSources(t *testing.T) {
	t.Chdir("../../..")
	if err := overlay.Apply(t.TempDir(), Momentary); err != nil {
		t.Error(err)
	}
}
