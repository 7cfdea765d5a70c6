package blocks

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// page puts a block of sh below what stands above it.
func page(above, text string) string { return "# Head\n\n" + above + "\n```sh\n" + text + "\n```\n" }

func TestParse(t *testing.T) {
	got, err := Parse("a.md", "## One\n\n1. First:\n\n   <!-- run: node -->\n   ```sh\n   a \\\n     b   # c\n\n   d\n   ```\n\n<!-- shows -->\n```\nx\n```\n\n## Two\n\n<!-- needs: az -->\n```bash\naz login\n```\n\n```yaml\na: b\n```\n")
	want := []Block{
		{Page: "a.md", Line: 6, Section: "One", Run: Node, Text: "a \\\n  b   # c\n\nd\n", Shows: "x\n"},
		{Page: "a.md", Line: 21, Section: "Two", Needs: "az", Text: "az login\n"},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Fatalf("%v (-want +got):\n%s", err, diff)
	}
	if diff := cmp.Diff([]string{"a  b", "d"}, got[0].Commands()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"a fence without an end":     "```sh\nmake demo\n",
		"commands in a plain fence":  "```\nkubectl get pods\n```\n",
		"commands that are indented": "Text:\n\n    kubectl get pods\n",
		"output of nothing":          "<!-- shows -->\n```\nx\n```\n",
	} {
		if got, err := Parse("a.md", text); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestCheck(t *testing.T) {
	for name, tt := range map[string]struct{ above, text, says string }{
		"a place":                     {"<!-- run: node -->", "kubectl get pods", ""},
		"a target":                    {"<!-- run: make -->", "make lint   # why\nmake test-unit A=b", ""},
		"a tool":                      {"<!-- needs: az -->", "group=x\naz group show \\\n  --name \"$group\"", ""},
		"a tool within":               {"<!-- needs: az -->", "kubectl annotate pod x y=\"$(az account show)\"", ""},
		"a tool whose result is read": {"<!-- needs: docker -->", "docker run x &&\n  sha256sum y", ""},
		"no marker":                   {"", "kubectl get pods", "no comment above"},
		"a marker further up":         {"<!-- run: node -->\n", "kubectl get pods", "no comment above"},
		"an unknown place":            {"<!-- run: azure -->", "az login", "no place"},
		"an unknown tool":             {"<!-- needs: kubectl -->", "kubectl get pods", "not a tool"},
		"a command that could run":    {"<!-- needs: az -->", "az login\nkubectl get pods", "it could run"},
		"the tool in a comment":       {"<!-- needs: az -->", "kubectl get pods   # as az would", "it could run"},
		"another tool":                {"<!-- needs: cosign -->", "az login", "nothing in it needs cosign"},
		"nothing but a variable":      {"<!-- needs: az -->", "group=x", "nothing in it needs az"},
		"a target that no test runs":  {"<!-- run: make -->", "make soup", "no test runs make soup"},
		"more than a target":          {"<!-- run: make -->", "make lint && rm x", "not a target"},
	} {
		all, err := Parse("a.md", page(tt.above, tt.text))
		if err != nil || len(all) != 1 {
			t.Fatalf("%s: %v, %v", name, all, err)
		}
		err = all[0].Check([]string{"lint", "test-unit"})
		if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%s: %v, want %q", name, err, tt.says)
		}
	}
}

func TestCheckShown(t *testing.T) {
	b := Block{Shows: "WHO  MS    WHAT\na    7     x\n…\n3 passed\n"}
	for printed, fine := range map[string]bool{
		"building\nWHO  MS   WHAT\na    812  x\nmore\n3 passed\n": true,
		"WHO  MS   WHAT\na    8    x\n4 passed\n":                 false,
		"WHO  MS   WHAT\na    8    y\n3 passed\n":                 false,
		"3 passed\nWHO  MS   WHAT\na    8    x\n":                 false,
		"": false,
	} {
		if err := b.CheckShown(printed); (err == nil) != fine {
			t.Errorf("%q: %v", printed, err)
		}
	}
}

func TestShell(t *testing.T) {
	dir := t.TempDir()
	s, err := StartHere(t.Context(), dir, dir, "GIVEN=g")
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		text, printed string
		fine          bool
	}{
		{"x=1\ncat\necho $GIVEN", "g\n", true}, // standard input is empty, not the shell's script
		{"echo $x >&2\nf() { echo f; }", "1\n", true},
		{"f\nfalse | true\necho on", "f\n", false},
		{"echo more", "", false},
	} {
		printed, err := s.Run(Block{Text: step.text + "\n"})
		if (err == nil) != step.fine || step.fine && printed != step.printed {
			t.Errorf("%s: %q, %v", step.text, printed, err)
		}
	}
	if s.Close() == nil {
		t.Error("the shell ended with status 0 after a block that failed")
	}
}
