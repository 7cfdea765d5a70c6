package kernel

import (
	"flag"
	"os"
	"testing"

	"github.com/sidestep-agent/sidestep/test/lab"
)

// TestMain runs the tests inside a lab.
func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(lab.Suite("test-kernel", m.Run))
}
