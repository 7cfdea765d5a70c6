package suite

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// makefile has a part of each kind. The node's build waits for the last of the
// others, and so must run beside them; the node's tests want it to be over.
const makefile = `
good: ## Passes
	@echo "ok  	example/good	0.1s"
bad: ## Fails
	@echo "FAIL	example/bad	0.1s"; exit 3
late: ## Runs although another has failed
	@touch late; echo "ok  	example/late	0.1s"
node-build: ## Runs beside the others
	@until [ -e late ]; do sleep 0.01; done; touch built; exit $(BUILD)
test-node: ## Runs after all others
	@[ -e built ] && echo "ok  	example/node	0.1s"
`

func TestPartsOfMakeTest(t *testing.T) {
	for name, tc := range map[string]struct {
		build  string
		parts  string
		failed bool
		want   []string // patterns of lines
	}{
		"one fails": {"0", "good bad late node-build test-node", true, []string{
			`ok  \texample/good\t0.1s`, `FAIL\texample/bad\t0.1s`, `ok  \texample/late\t0.1s`, `ok  \texample/node\t0.1s`,
			`good +passed +\d+ s *`, `bad +FAILED +\d+ s *`, `late +passed +\d+ s *`, `node-build +passed +\d+ s *`, `test-node +passed +\d+ s *`,
		}},
		"all pass": {"0", "good late node-build test-node", false, []string{`test-node +passed +\d+ s *`}},
		"no node": {"1", "good late node-build test-node", true, []string{
			`node-build +FAILED +\d+ s *`, `test-node +left out +- +node-build has failed`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			text, err := os.ReadFile("../../scripts/test.sh")
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "scripts/test.sh"), string(text))
			write(t, filepath.Join(dir, "Makefile"), makefile)
			cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "scripts/test.sh"), strings.Fields(tc.parts)...)
			cmd.Env = append(os.Environ(), "BUILD="+tc.build)
			out, err := cmd.CombinedOutput()
			if failed := cmd.ProcessState.ExitCode() == 1; failed != tc.failed || !failed && err != nil {
				t.Errorf("%v, want a failure: %t\n%s", err, tc.failed, out)
			}
			for _, line := range tc.want {
				if !regexp.MustCompile(`(?m)^` + line + `$`).Match(out) {
					t.Errorf("no line %q in\n%s", line, out)
				}
			}
		})
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}
