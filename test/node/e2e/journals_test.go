package e2e

import (
	"strings"
	"testing"

	"github.com/sidestep-agent/sidestep/test/standins/journal"
)

// entries returns what a stand-in has logged: entra, imds or vault.
func entries[E any](t *testing.T, standin string) []E {
	t.Helper()
	all, err := journal.Read[E](strings.NewReader(inNode(t, "cat", "/run/standins/"+standin+".jsonl")))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// sinceNow returns a function that returns what the stand-in has logged since.
func sinceNow[E any](t *testing.T, standin string) func() []E {
	t.Helper()
	before := len(entries[E](t, standin))
	return func() []E {
		t.Helper()
		return entries[E](t, standin)[before:]
	}
}
