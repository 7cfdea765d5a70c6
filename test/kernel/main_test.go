package kernel

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/sidestep-agent/sidestep/test/lab"
)

// TestMain runs the tests inside a lab. Where none can be made they are
// skipped for want of root alone; a root who has no cgroup v2 is told so by a
// failure, since the tests should have been able to run.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := lab.Possible(); errors.Is(err, lab.ErrNotRoot) {
		fmt.Println("SKIP: the kernel tests need root")
		os.Exit(0)
	}
	os.Exit(lab.Main(m.Run))
}
