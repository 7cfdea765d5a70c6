package main

import (
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const passing = "\n\x16=== KERNEL 6.1.0\n" +
	"\n\x16=== SUITE lab\n" +
	"\x16=== RUN   TestA\n" +
	"\x16=== RUN   TestA/sub\n" +
	"no newline\x16--- PASS: TestA/sub (0.01s)\n" +
	"\x16--- PASS: TestA (0.02s)\n" +
	"PASS\n" +
	"\n\x16=== EXIT 0\n" +
	"\n\x16=== END\n"

func read(output string) *result {
	r := &result{name: "test", progress: io.Discard, heard: func() {}}
	// Byte by byte, as a serial port may bring it.
	for i := range len(output) {
		r.Write([]byte{output[i]})
	}
	r.finish()
	return r
}

func TestPassing(t *testing.T) {
	r := read(passing)
	if r.kernel != "6.1.0" || r.passed != 2 || r.failed != 0 || r.skipped != 0 {
		t.Errorf("%+v", r)
	}
	if r.problems != nil {
		t.Errorf("problems: %q", r.problems)
	}
}

func TestProblems(t *testing.T) {
	replaced := func(old, now string) string {
		t.Helper()
		if !strings.Contains(passing, old) {
			t.Fatalf("%q is not in the output", old)
		}
		return strings.Replace(passing, old, now, 1)
	}
	upTo := func(mark string) string {
		head, _, _ := strings.Cut(passing, mark)
		return head
	}
	for name, tt := range map[string]struct {
		output string
		want   []string
	}{
		"a test fails":      {replaced("PASS: TestA/", "FAIL: TestA/"), []string{"lab: TestA/sub failed"}},
		"a test is skipped": {replaced("PASS: TestA ", "SKIP: TestA "), []string{"lab: TestA was skipped"}},
		"the binary fails":  {replaced("EXIT 0", "EXIT 66"), []string{"lab ended with status 66"}},
		"no test runs": {
			"\x16=== SUITE lab\nSKIP: the lab's tests need root\n\x16=== EXIT 0\n\x16=== END\n",
			[]string{"lab ran no test"},
		},
		"a test printed the end": {
			replaced("\x16=== END\n", "=== END\n"), []string{"the tests did not come to their end"},
		},
		"the process dies in a test": {
			replaced("\x16--- PASS: TestA ", "panic: "), []string{"lab: TestA did not end"},
		},
		"the guest dies in a test": {
			upTo("no newline"),
			[]string{"lab: TestA did not end", "lab: TestA/sub did not end", "the tests did not come to their end"},
		},
		"the guest prints nothing": {"", []string{"the tests did not come to their end"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, read(tt.output).problems); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestReport(t *testing.T) {
	var out strings.Builder
	good, bad := read(passing), read("")
	if !report(&out, []*result{good}) {
		t.Error("a good result is reported as none")
	}
	if report(&out, []*result{good, bad}) {
		t.Error("a bad result is reported as good")
	}
	if want := "FAIL: test: the tests did not come to their end"; !strings.Contains(out.String(), want) {
		t.Errorf("%q is not in\n%s", want, out.String())
	}
}
