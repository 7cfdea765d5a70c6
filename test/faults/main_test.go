package faults

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/sidestep-agent/sidestep/test/lab"
)

var program = flag.String("faults.agent", "", "path of the agent's program")

func TestMain(m *testing.M) {
	flag.Parse()
	if err := lab.Possible(); errors.Is(err, lab.ErrNotRoot) {
		fmt.Println("SKIP: the tests of faults need root")
		os.Exit(0)
	}
	os.Exit(lab.Main(m.Run))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
