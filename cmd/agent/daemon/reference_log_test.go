package daemon

import (
	"go/ast"
	"go/parser"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What people filter and alert on is in docs/observability.md, all of it and
// nothing that is gone.

func TestLogKeysAreDocumented(t *testing.T) {
	r := readAgent(t)
	for _, at := range r.unclear {
		t.Errorf("%s: a key or a logger that this test cannot read, and no reader can look up", at)
	}
	if diff := cmp.Diff(documented(t, "Keys"), slices.Sorted(maps.Keys(r.keys))); diff != "" {
		t.Errorf("keys of log lines (-docs/observability.md +used):\n%s", diff)
	}
}

func TestEventsAreDocumented(t *testing.T) {
	r := readAgent(t)
	if diff := cmp.Diff(documented(t, "Events"), slices.Sorted(maps.Keys(r.events))); diff != "" {
		t.Errorf("reasons of events (-docs/observability.md +used):\n%s", diff)
	}
}

func TestSpanAttributesAreDocumented(t *testing.T) {
	r := readAgent(t)
	if diff := cmp.Diff(documented(t, "Traces"), slices.Sorted(maps.Keys(r.attributes))); diff != "" {
		t.Errorf("attributes of spans (-docs/observability.md +used):\n%s", diff)
	}
}

var firstCell = regexp.MustCompile("(?m)^\\| `([^`]+)`")

// documented returns what the table below the heading lists.
func documented(t *testing.T, heading string) []string {
	t.Helper()
	text, err := os.ReadFile("../../../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "# "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n#")
	if !found {
		t.Fatalf("docs/observability.md has no heading %s", heading)
	}
	var names []string
	for _, row := range firstCell.FindAllStringSubmatch(section, -1) {
		names = append(names, row[1])
	}
	return slices.Sorted(slices.Values(names))
}

func TestSourceReaderSeesEachKindOfLine(t *testing.T) {
	const text = `package p
func f(log, other *slog.Logger, x T) {
	log.Info("m", "a", 1, slog.String("b", "a value"), "c", 2)
	x.log.With("d", 1).Error("m", "e", err)
	slog.LogAttrs(ctx, level, "m", slog.Any("f", err))
	args := []any{"g", 1}
	args = append(args, "h", 2)
	x.Log.Log(ctx, level, "m", args...)
	flags := []string{"no key"}
	all := make([]any, 0)
	all = append(all, slog.Int("i", n), slog.Int(name(), n))
	log.Info("m", slog.Group("j", all...), slog.Group("k", "l", 1))
	log.Warn("m", key, 1)
	log.Warn("m", name(), 1)
	events.Eventf(pod, nil, t, "Reason", "Action", "%s", note)
	span.SetAttributes(attribute.String("x.y", "z"))
	other.Printf("m", "no key")
}`
	r := newSourceReader()
	file, err := parser.ParseFile(r.files, "p.go", text, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, r.visit)
	if got := strings.Join(slices.Sorted(maps.Keys(r.keys)), ""); got != "abcdefghijkl" {
		t.Errorf("keys %q", got)
	}
	if got := slices.Collect(maps.Keys(r.events)); !slices.Equal(got, []string{"Reason"}) {
		t.Errorf("events %q", got)
	}
	if got := slices.Collect(maps.Keys(r.attributes)); !slices.Equal(got, []string{"x.y"}) {
		t.Errorf("attributes %q", got)
	}
	if want := []string{"p.go:2:13", "p.go:11:47", "p.go:13:16", "p.go:14:16"}; !slices.Equal(r.unclear, want) {
		t.Errorf("unclear: %v, want %v", r.unclear, want)
	}
}
