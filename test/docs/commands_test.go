package docs

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sidestep-agent/sidestep/test/docs/blocks"
)

// Each block of commands says where a test runs it, or which tool it needs that
// no test can have.
func TestCommandsAreMarked(t *testing.T) {
	tested := testedTargets(t)
	places := map[string]int{}
	for name, page := range pages(t) {
		all, err := blocks.Parse(name, page)
		if err != nil {
			t.Error(err)
		}
		for _, b := range all {
			if err := b.Check(tested); err != nil {
				t.Errorf("%s: %v", b, err)
			}
			places[b.Run]++
		}
	}
	for _, place := range []string{blocks.Machine, blocks.Node, blocks.Rig, blocks.Fresh, blocks.Clients, blocks.Make} {
		if places[place] == 0 {
			t.Errorf("no block runs on %s", place)
		}
	}
}

var (
	rule  = regexp.MustCompile(`(?m)^([a-z-]+):([^=\n]*)((?:\n\t.*)*)`)
	calls = regexp.MustCompile(`(?:\$\(MAKE\)|scripts/test\.sh)((?: .*)?)`)
	word  = regexp.MustCompile(`[a-z-]+`)
)

// testedTargets returns the Makefile's targets that are part of `make test-all`.
func testedTargets(t *testing.T) []string {
	t.Helper()
	makefile, err := os.ReadFile(root + "/Makefile")
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string][]string{}
	for _, r := range rule.FindAllStringSubmatch(string(makefile), -1) {
		needs, _, _ := strings.Cut(r[2], "#")
		for _, c := range calls.FindAllStringSubmatch(r[3], -1) {
			needs += " " + c[1]
		}
		parts[r[1]] = append(parts[r[1]], word.FindAllString(needs, -1)...)
	}
	seen := map[string]bool{}
	todo := []string{"test-all"}
	for len(todo) > 0 {
		next := todo[0]
		todo = todo[1:]
		if _, target := parts[next]; target && !seen[next] {
			seen[next] = true
			todo = append(todo, parts[next]...)
		}
	}
	for _, want := range []string{"test", "lint", "test-unit", "test-clients", "test-fresh"} {
		if !seen[want] {
			t.Errorf("make test-all does not run %s: %v", want, slices.Sorted(maps.Keys(seen)))
		}
	}
	return slices.Collect(maps.Keys(seen))
}
