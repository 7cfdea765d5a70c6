package faults

import (
	"flag"
	"os"
	"testing"

	"github.com/sidestep-agent/sidestep/test/lab"
)

var program = flag.String("faults.agent", "", "path of the agent's program")

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(lab.Suite("test-faults", m.Run))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
