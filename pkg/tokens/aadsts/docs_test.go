package aadsts

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the table of docs/diagnosis.md again")

const (
	page   = "../../../docs/diagnosis.md"
	header = "| code | answer | what it means | what fixes it |\n|---|---|---|---|\n"
)

// The table of docs/diagnosis.md is made of the table of codes.
func TestDocsHaveTheTable(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), header)
	got, after, ended := strings.Cut(rest, "\n\n")
	if !found || !ended {
		t.Fatalf("%s has no table that begins with %q", page, header)
	}
	var want strings.Builder
	for row := range All() {
		fmt.Fprintf(&want, "| %s | %s | %s | %s |\n", row.Code, answers[row.Kind], row.Summary, row.Remedy)
	}
	if *update {
		text := before + header + strings.TrimSuffix(want.String(), "\n") + "\n\n" + after
		if err := os.WriteFile(page, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(strings.TrimSuffix(want.String(), "\n"), got); diff != "" {
		t.Errorf("go test ./pkg/tokens/aadsts -update writes it (-table +docs):\n%s", diff)
	}
}

var answers = map[Kind]string{Permanent: "400", NotYet: "400; held while new", Transient: "held"}

// Each row is whole, and what passes by itself names no command.
func TestRowsAreWhole(t *testing.T) {
	seen := map[string]bool{}
	for row := range All() {
		if seen[row.Code] || !strings.HasPrefix(row.Code, "AADSTS") {
			t.Errorf("%s is twice in the table, or no code", row.Code)
		}
		seen[row.Code] = true
		if row.Status == 0 || row.OAuth == "" || row.Summary == "" || row.Remedy == "" || row.meaning == nil {
			t.Errorf("%s: a part is missing", row.Code)
		}
		if row.Kind == Transient && row.fix != nil {
			t.Errorf("%s passes by itself, and has a command", row.Code)
		}
		if row.Resource && row.Kind != Permanent {
			t.Errorf("%s is about a resource, which is not waited for", row.Code)
		}
	}
}
