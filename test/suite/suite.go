// Package suite keeps `go test ./...` the unit suite, also for root. What needs
// root, programs that were built before, or minutes runs only when its make
// target asks for it, and is skipped else.
package suite

import (
	"fmt"
	"os"
	"testing"
)

// Variable is set in the environment, to anything, by the make targets whose
// suites are no unit tests.
const Variable = "SIDESTEP_SUITES"

// Asked reports whether the suites beyond the unit tests are to run. What they
// lack is then a failure.
func Asked() bool { return os.Getenv(Variable) != "" }

// Skipped returns the sentence that says why a suite does not run.
func Skipped(target string) string {
	return fmt.Sprintf("no unit test: run make %s, or set %s=1", target, Variable)
}

// Skip prints that sentence and returns the exit status for TestMain.
func Skip(target string) int {
	fmt.Println("SKIP:", Skipped(target))
	return 0
}

// Need skips a test of the make target unless the suites were asked for.
func Need(t testing.TB, target string) {
	t.Helper()
	if !Asked() {
		t.Skip(Skipped(target))
	}
}
