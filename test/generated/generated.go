// Package generated holds files to the templates and the program that they are
// made from: references in docs/, the chart's schema. It is for tests.
package generated

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the generated files")

// Check compares the file at path with a template filled in with data, or
// writes it if the test was given -update.
func Check(t *testing.T, path, from string, data any) {
	t.Helper()
	want, err := filled(from, data)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is not what the program has; run make generate (-program +file):\n%s", path, diff)
	}
}

func filled(path string, data any) ([]byte, error) {
	t, err := template.New(filepath.Base(path)).Funcs(template.FuncMap{
		"code": func(s string) string { return "`" + s + "`" },
		"cell": func(s string) string { return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", `\|`) },
	}).ParseFiles(path)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, data)
	return b.Bytes(), err
}
