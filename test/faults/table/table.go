package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sidestep-agent/sidestep/test/faults/row"
)

// table prints rows as they come.
type table struct {
	out     io.Writer
	skips   bool // a test may be skipped
	rows    []result
	running map[string]*test // by package and name
}

// result is a row and whether it was as it should be.
type result struct {
	row.Row
	test string // its package and name
	ok   bool
	log  string // of the test
}

// test is what a test has said so far.
type test struct {
	rows []row.Row
	log  strings.Builder
}

const format = "%-7s %-60s %-72s %s\n"

func newTable(out io.Writer, skips bool) *table {
	fmt.Fprintf(out, format, "", "FAULT", "EXPECTED", "SEEN")
	return &table{out: out, skips: skips, running: make(map[string]*test)}
}

// event is a line of `go test -json` (go doc test2json).
type event struct {
	Action, Package, Test, Output string
}

// read takes in the output of one `go test -json`.
func (t *table) read(events io.Reader) error {
	for decoder := json.NewDecoder(events); ; {
		var e event
		err := decoder.Decode(&e)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the tests' output: %w", err)
		}
		t.add(e)
	}
}

func (t *table) add(e event) {
	key := e.Package + " " + e.Test
	one := t.running[key]
	if one == nil {
		one = &test{}
		t.running[key] = one
	}
	switch e.Action {
	case "output":
		one.log.WriteString(e.Output)
		if r, ok := row.Parse(e.Output); ok {
			one.rows = append(one.rows, r)
		}
	case "skip":
		// A package without tests is skipped too; what it shows is counted.
		if !t.skips && e.Test != "" {
			t.end(key, one, false)
		}
	case "pass", "fail":
		t.end(key, one, e.Action == "pass")
	}
}

// end prints the rows of a test that has ended. One that failed without a row
// has one nevertheless, unless it failed for a part of it that has.
func (t *table) end(key string, one *test, ok bool) {
	if !ok && len(one.rows) == 0 && !t.failed(key) {
		one.rows = []row.Row{{Fault: strings.TrimSpace(key), Seen: "no row: see its log"}}
	}
	for _, r := range one.rows {
		mark := "ok"
		if !ok {
			mark = "FAILED"
		}
		fmt.Fprintf(t.out, format, mark, r.Fault, r.Expected, r.Seen)
		t.rows = append(t.rows, result{Row: r, test: key, ok: ok, log: one.log.String()})
	}
}

// failed reports whether a part of what the key names has failed: of a test, of
// a package, or with no key of all.
func (t *table) failed(key string) bool {
	for _, r := range t.rows {
		if !r.ok && strings.HasPrefix(r.test, key) {
			return true
		}
	}
	return false
}

// judge prints what the tests that failed had to say, and fails if some did.
func (t *table) judge() error {
	failed := 0
	for _, r := range t.rows {
		if !r.ok {
			failed++
			fmt.Fprintf(t.out, "\n%s:\n%s", r.Fault, r.log)
		}
	}
	fmt.Fprintf(t.out, "\nfaults: %d rows, %d failed\n", len(t.rows), failed)
	if failed > 0 {
		return fmt.Errorf("%d of %d rows failed", failed, len(t.rows))
	}
	return nil
}
