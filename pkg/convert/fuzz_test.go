package convert

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"unicode"

	"github.com/sidestep-agent/sidestep/pkg/config"
)

// Whatever was read, the output has no character that a terminal would act on,
// every line for the shell starts as one of ours, and the agent takes the
// configuration.
func FuzzObjects(f *testing.F) {
	for _, name := range []string{"testdata/shop/objects.yaml", "testdata/shop/pods.yaml", "testdata/open/objects.yaml"} {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var o Objects
		if o.Read(bytes.NewReader(text)) != nil {
			return
		}
		p, err := New(&o, Options{Issuer: issuer})
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range Parts {
			for l := range strings.SplitSeq(printed(t, p, part), "\n") {
				if strings.ContainsFunc(l, unicode.IsControl) {
					t.Errorf("%s: control characters: %q", part, l)
				}
				if part == "credentials" || part == "labels" {
					checkLine(t, l)
				}
			}
		}
		if _, err := config.Parse([]byte(printed(t, p, "configuration"))); err != nil {
			t.Errorf("the configuration: %v", err)
		}
	})
}

func checkLine(t *testing.T, l string) {
	t.Helper()
	for _, start := range []string{"# ", "az ", "kubectl ", "  --"} {
		if l == "" || l == "#" || strings.HasPrefix(l, start) {
			return
		}
	}
	t.Errorf("a line for the shell: %q", l)
}
