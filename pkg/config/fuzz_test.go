package config

import (
	"encoding/json"
	"errors"
	"path"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// FuzzConfiguration checks that a file is either taken or refused with its
// mistakes, and that what is taken is valid however it is written: written out
// in full it is taken again, as the same configuration.
func FuzzConfiguration(f *testing.F) {
	for _, seed := range []string{
		full, header, header + "exceptions: [{podSelector: {matchLabels: {a: b}}}]\nmode: audit", header + "exceptions: []",
		header + "scope: {namespaces: [a, b]}\nlimits: {concurrent: 9223372036854775807}", header + "limits: {requestsPerSecond: 0x10}",
		header + "relay: {allow: [/metadata/attested]}\n---\n", "a: &a [*a]", "- ", "%YAML 1.2\n---\n" + header, "{" + header + "}",
		header + "mode: !!str audit", header + "? mode\n: audit", header + "? mode", header + "relay: !x {instance: false}", "\xff\xfe", header + "\x00",
		header + "exceptions: [{podSelector: {matchExpressions: [{key: a, operator: Exists}]}}]", "null", header + "select: \"pod\\0\"",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil {
			if c != nil {
				t.Fatalf("Parse(%q) = %+v with %v", data, c, err)
			}
			checkMistakes(t, data, err)
			return
		}
		again, err := Parse(written(t, c))
		if err != nil {
			t.Fatalf("Parse took %q, and refuses what it says, %s: %v", data, written(t, c), err)
		}
		if diff := cmp.Diff(c, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("Parse(%q), written out in full and parsed again (-first +again):\n%s", data, diff)
		}
	})
}

// checkMistakes fails unless each error says what is wrong, on a line that is
// there.
func checkMistakes(t *testing.T, data []byte, err error) {
	t.Helper()
	lines := 2 // what the last one lacks is missing behind it
	for _, r := range string(data) {
		if strings.ContainsRune("\n\r\u0085\u2028\u2029", r) { // as YAML breaks lines
			lines++
		}
	}
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	for _, err := range all {
		var mistake *Error
		if !errors.As(err, &mistake) || mistake.Problem == "" || mistake.Line < 0 || mistake.Line > lines {
			t.Fatalf("Parse(%q) of %d lines: %#v", data, lines, err)
		}
	}
}

// written returns the configuration as a file with every field in it. JSON is
// YAML; what is null in it was not given.
func written(t *testing.T, c *AgentConfiguration) []byte {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.UseNumber()
	if err := d.Decode(&tree); err != nil {
		t.Fatal(err)
	}
	if text, err = json.Marshal(withoutNulls(tree)); err != nil {
		t.Fatal(err)
	}
	return text
}

func withoutNulls(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			if member == nil {
				delete(v, name)
			} else {
				v[name] = withoutNulls(member)
			}
		}
	case []any:
		for i := range v {
			v[i] = withoutNulls(v[i])
		}
	}
	return v
}

// FuzzRelayAllow checks that no path that relay.allow takes opens the node's
// identity or is one that the broker, which compares plain spellings alone,
// would never relay; and that a refused one is named with its line and fix.
func FuzzRelayAllow(f *testing.F) {
	for _, seed := range []string{
		"/metadata/attested", "/metadata/attested/document", "/metadata/instance/compute/userData", "/metadata/scheduledevents",
		"/metadata/identity", "/metadata/identity/oauth2/token", "/metadata/Identity", "/metadata/identit", "/metadata/identityx",
		"/metadata", "/metadata/", "/", "", "/metadata//identity", "/metadata/./x", "/metadata/x/..", "/metadata/x/.", "/metadata/x.", "/metadata/.x",
		"/metadata/x~1", "/metadata/%69dentity", `/metadata\identity`, "/metadata/x;y", "/metadata/x?y", "/metadata/x#y", "/METADATA/x",
		"/metadata/\u0131dentity", "/metadata/ｉdentity", "/metadata/x\n", "/metadata/x\x00", "/metadata/x y", "/metadata/x/", "true", "null", "\x7f", "\xff",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, entry string) {
		// Go's ASCII quotes are YAML's, too.
		c, err := Parse([]byte(header + "relay:\n  allow:\n  - /metadata/attested\n  - " + strconv.QuoteToASCII(entry) + "\n"))
		if err != nil {
			var mistake *Error
			if !errors.As(err, &mistake) || mistake.Line != 6 || !strings.Contains(mistake.Problem, ": ") {
				t.Fatalf("relay.allow with %q: %#v, want the line and a fix", entry, err)
			}
			return
		}
		got := c.Relay.Allow[1]
		const identity = "/metadata/identity/"
		low := strings.ToLower(got) + "/"
		if !strings.HasPrefix(low, "/metadata/") || strings.HasPrefix(low, identity) || strings.HasPrefix(identity, low) {
			t.Fatalf("relay.allow takes %q", got)
		}
		if path.Clean(got) != got || strings.ContainsFunc(got, notPlain) {
			t.Fatalf("relay.allow takes %q, which servers read in more than one way", got)
		}
		for segment := range strings.SplitSeq(got[1:], "/") {
			if segment == "" || strings.Trim(segment, ".") != segment {
				t.Fatalf("relay.allow takes %q with the name %q in it", got, segment)
			}
		}
	})
}

func notPlain(r rune) bool {
	return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./", r)
}
