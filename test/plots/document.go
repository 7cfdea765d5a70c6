package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// A generated part of the document stands between these lines. The first names
// the part, and how it is made.
const (
	begin = "<!-- generated: make %s-docs -->\n"
	end   = "<!-- end of what is generated -->\n"
)

// writeInto replaces a generated part of the document; without a path there
// is no document.
func writeInto(path, part, generated string) error {
	if path == "" {
		return nil
	}
	begin := fmt.Sprintf(begin, part)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		return fmt.Errorf("%s has no part that begins with %q", path, begin)
	}
	return os.WriteFile(path, []byte(before+begin+generated+end+after), 0o644)
}

func (r report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d × %s, Linux %s, load %s before, %.0f s.\n\n", r.day(), r.CPUs, r.CPU, r.Kernel, r.Load, r.Seconds)
	b.WriteString("| figure | measured | baseline | ratio | minimal program | target | result |\n|---|---|---|---|---|---|---|\n")
	for _, row := range r.Rows {
		minimal := row.MinimalIs
		if row.Minimal != nil {
			minimal = row.Minimal.String() + " " + minimal
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n",
			row.Figure, row.Measured, row.Baseline, row.Ratio, orDash(minimal), row.Target, row.Result)
	}
	b.WriteString("\n| program | instructions | verifier walked | machine code |\n|---|---|---|---|\n")
	for _, p := range r.Instructions {
		fmt.Fprintf(&b, "| `%s` | %d | %d | %d bytes |\n", p.Program, p.Loaded, p.Verified, p.Machine)
	}
	b.WriteString("\n")
	for _, note := range r.Notes {
		fmt.Fprintf(&b, "- %s\n", note)
	}
	return b.String()
}

func (r report) day() string {
	at, err := time.Parse(time.RFC3339, r.At)
	if err != nil {
		return r.At
	}
	return at.Format(time.DateOnly)
}

// String returns the median with the bounds of its confidence.
func (r *ratio) String() string {
	if r == nil {
		return "–"
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", r.Median, r.Low, r.High)
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}
