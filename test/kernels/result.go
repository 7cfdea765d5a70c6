package main

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// syn begins each line that says what the tests did, as opposed to what they
// printed (go tool test2json).
const syn = "\x16"

// result has the results of the tests on one kernel. It is a writer for what
// suite.sh prints, and tells progress what is worth telling.
type result struct {
	name     string // of the kernel, in front of each line of progress
	progress io.Writer
	heard    func() // called on each line

	kernel                  string // what the kernel calls itself
	passed, failed, skipped int
	ended                   bool     // suite.sh came to its end
	problems                []string // why this is no success; none: it is one
	took                    time.Duration

	suite string   // the binary that runs
	tests int      // of it
	open  []string // its tests that have begun and not ended
	line  []byte   // the last, unfinished one
}

// Write takes a part of the output.
func (r *result) Write(p []byte) (int, error) {
	r.line = append(r.line, p...)
	for {
		line, rest, found := bytes.Cut(r.line, []byte("\n"))
		if !found {
			return len(p), nil
		}
		r.read(string(line))
		r.line = rest
		r.heard()
	}
}

func (r *result) read(line string) {
	// What a test printed without a newline stands before the mark.
	at := strings.LastIndex(line, syn)
	if at < 0 {
		r.say(line)
		return
	}
	r.say(line[:at])
	mark := line[at+len(syn):]
	words := append(strings.Fields(mark), "", "", "")
	switch what, name := words[0]+" "+words[1], words[2]; what {
	case "=== KERNEL":
		r.kernel = name
	case "=== SUITE":
		r.suite, r.tests = name, 0
	case "=== RUN":
		r.tests++
		r.open = append(r.open, name)
	case "--- PASS:", "--- FAIL:", "--- SKIP:":
		r.count(what, name)
		r.say(mark)
	case "=== EXIT":
		r.exit(name)
	case "=== END":
		r.ended = true
	}
}

func (r *result) count(what, test string) {
	r.open = slices.DeleteFunc(r.open, func(open string) bool { return open == test })
	switch what {
	case "--- PASS:":
		r.passed++
	case "--- FAIL:":
		r.failed++
		r.problem(r.suite + ": " + test + " failed")
	case "--- SKIP:":
		// These kernels have all that the tests need.
		r.skipped++
		r.problem(r.suite + ": " + test + " was skipped")
	}
}

func (r *result) exit(status string) {
	if status != "0" {
		r.problem(r.suite + " ended with status " + status)
	}
	if r.tests == 0 {
		r.problem(r.suite + " ran no test")
	}
	r.unfinished()
}

// unfinished takes the tests that are open for failed: their process died.
func (r *result) unfinished() {
	for _, test := range r.open {
		r.failed++
		r.problem(r.suite + ": " + test + " did not end")
	}
	r.open = nil
}

// finish is called after the last Write.
func (r *result) finish() {
	r.read(string(r.line))
	r.unfinished()
	if !r.ended {
		r.problem("the tests did not come to their end")
	}
}

func (r *result) problem(what string) { r.problems = append(r.problems, what) }

func (r *result) say(line string) {
	if line = strings.TrimRight(line, " \r"); line != "" {
		fmt.Fprintf(r.progress, "%s: %s\n", r.name, line)
	}
}
