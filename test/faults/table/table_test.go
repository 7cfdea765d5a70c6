package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// lines returns what `go test -json` would print.
func lines(t *testing.T, events ...event) string {
	t.Helper()
	var all strings.Builder
	for _, e := range events {
		if err := json.NewEncoder(&all).Encode(e); err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}

func says(name, text string) event {
	return event{Action: "output", Package: "p", Test: name, Output: "    x_test.go:1: " + text + "\n"}
}

func ends(name, how string) event { return event{Action: how, Package: "p", Test: name} }

func TestTable(t *testing.T) {
	for name, tc := range map[string]struct {
		events []event
		rows   int
		failed bool
		skips  bool
		prints []string
	}{
		"a row that is as expected": {
			[]event{says("TestA", "fault: a | b | c"), ends("TestA", "pass"), ends("", "pass")},
			1, false, false, []string{"ok ", "1 rows, 0 failed"},
		},
		"a row that failed": {
			[]event{says("TestA", "not so"), says("TestA", "fault: a | b | c"), ends("TestA", "fail"), ends("", "fail")},
			1, true, false, []string{"FAILED", "not so", "1 rows, 1 failed"},
		},
		"a test that failed without a row": {
			[]event{says("TestA", "boom"), ends("TestA", "fail"), ends("", "fail")},
			1, true, false, []string{"p TestA", "boom"},
		},
		"what cannot be built": {
			[]event{ends("", "fail")}, 1, true, false, []string{"FAILED"},
		},
		"a row of a subtest": {
			[]event{says("TestA/b", "fault: a | b | c"), ends("TestA/b", "fail"), ends("TestA", "fail"), ends("", "fail")},
			1, true, false, []string{"1 rows, 1 failed"},
		},
		"a test that is skipped": {
			[]event{says("TestA", "needs root"), ends("TestA", "skip"), ends("", "pass")},
			1, true, false, []string{"FAILED", "needs root"},
		},
		"one that may be": {
			[]event{ends("TestA", "skip"), ends("", "pass")}, 0, false, true, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			table := newTable(&out, tc.skips)
			if err := table.read(strings.NewReader(lines(t, tc.events...))); err != nil {
				t.Fatal(err)
			}
			if err := table.judge(); (err != nil) != tc.failed || len(table.rows) != tc.rows {
				t.Errorf("%d rows, %v", len(table.rows), err)
			}
			for _, p := range tc.prints {
				if !strings.Contains(out.String(), p) {
					t.Errorf("does not print %q:\n%s", p, out.String())
				}
			}
		})
	}
}
