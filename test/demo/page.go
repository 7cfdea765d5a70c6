package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// paint is an SGR sequence (ECMA-48) for terminals.
type paint string

const (
	plain  paint = ""
	bold   paint = "\x1b[1m"
	red    paint = "\x1b[31m"
	green  paint = "\x1b[32m"
	yellow paint = "\x1b[33m"
	end          = "\x1b[0m"
)

// page prints for people. A line that cannot be printed has no reader.
type page struct {
	out    io.Writer
	colour bool
}

func (p *page) paragraph(text string) { fmt.Fprintln(p.out, strings.TrimSpace(text)+"\n") }

func (p *page) heading(text string) { fmt.Fprintln(p.out, "\n"+p.in(bold, text)) }

func (p *page) in(c paint, text string) string {
	if !p.colour || c == plain {
		return text
	}
	return string(c) + text + end
}

// cell is one field of a row.
type cell struct {
	text  string
	paint paint
}

// columns are the table's, with their widths. The last has none: it ends the
// line. A row is printed as soon as it is known, so the widths are fixed.
var columns = []struct {
	title string
	width int
}{
	{"POD", 15}, {"KIND", 25}, {"CLIENT", 14}, {"SOCKET", 11},
	{"DESTINATION", 21}, {"IDENTITY", 10}, {"MS", 5}, {"RESULT", 0},
}

func (p *page) header() {
	cells := make([]cell, len(columns))
	for i, c := range columns {
		cells[i] = cell{text: c.title}
	}
	p.row(cells)
}

// row prints one cell for each column.
func (p *page) row(cells []cell) {
	var line strings.Builder
	for i, c := range cells {
		line.WriteString(p.in(c.paint, c.text))
		if i == len(cells)-1 {
			break
		}
		// Padded by hand: a colour has no width.
		pad := columns[i].width - utf8.RuneCountInString(c.text)
		line.WriteString(strings.Repeat(" ", max(pad, 0)+2))
	}
	fmt.Fprintln(p.out, strings.TrimRight(line.String(), " "))
}

// checks prints whether all was as it should be and, as the last line, in how
// many points. Where it was not, explanation stands before that line. It
// returns how many checks failed.
func (p *page) checks(all []check, explanation string) (failed int) {
	for _, c := range all {
		if c.why == "" {
			fmt.Fprintln(p.out, p.in(green, "ok  "), c.text)
			continue
		}
		failed++
		fmt.Fprintf(p.out, "%s %s: %s\n", p.in(red, "FAIL"), c.text, c.why)
	}
	colour := green
	if failed > 0 {
		colour = red
		fmt.Fprint(p.out, "\n"+explanation)
	}
	fmt.Fprintln(p.out, "\n"+p.in(colour, fmt.Sprintf("demo: %d checks passed, %d failed", len(all)-failed, failed)))
	return failed
}
