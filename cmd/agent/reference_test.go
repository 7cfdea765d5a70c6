package main

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

//go:generate go test -count=1 -run ^TestReference . -update

var update = flag.Bool("update", false, "rewrite the references in docs/ and the chart's schema")

// checkReference compares docs/name with the template of the same name filled
// in, or writes it.
func checkReference(t *testing.T, name string, data any) {
	t.Helper()
	checkGenerated(t, filepath.Join("..", "..", "docs", name), name+".tmpl", data)
}

// checkGenerated compares a file with a template filled in, or writes it.
func checkGenerated(t *testing.T, path, from string, data any) {
	t.Helper()
	want, err := filled(filepath.Join("testdata", from), data)
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
