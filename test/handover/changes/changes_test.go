package changes

import (
	"testing"

	"github.com/sidestep-agent/sidestep/test/overlay"
)

// Each change can be made in the sources as they are now.
func TestChangesFitTheSources(t *testing.T) {
	t.Chdir("../../..")
	for _, edits := range [][]overlay.Edit{Momentary, LayoutMoments} {
		if err := overlay.Apply(t.TempDir(), edits); err != nil {
			t.Error(err)
		}
	}
}
