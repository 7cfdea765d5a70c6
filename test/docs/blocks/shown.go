package blocks

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// elided is a line of shown output in whose place there may be any others.
const elided = "…"

var (
	gaps  = regexp.MustCompile(` {2,}`)
	times = regexp.MustCompile(`(  |_ms":)\d+`) // a column of milliseconds, or a field
)

// steady returns lines without what differs from run to run: times, and how
// wide they make a column.
func steady(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		all = append(all, times.ReplaceAllString(gaps.ReplaceAllString(strings.TrimRight(line, " \n"), "  "), "${1}N"))
	}
	return all
}

// CheckShown returns an error if the page says that the block prints something
// that is not, in this order, in what it printed.
func (b Block) CheckShown(printed string) error {
	have := steady(printed)
	for part := range slices.Values(parts(steady(b.Shows))) {
		at := index(have, part)
		if at < 0 {
			return fmt.Errorf("the page shows, and it did not print:\n%s\nIt printed:\n%s", strings.Join(part, "\n"), printed)
		}
		have = have[at+len(part):]
	}
	return nil
}

// parts splits lines where some are left out.
func parts(lines []string) [][]string {
	var all [][]string
	for {
		at := slices.Index(lines, elided)
		if at < 0 {
			return append(all, lines)
		}
		all, lines = append(all, lines[:at]), lines[at+1:]
	}
}

// index returns where part begins in lines, or -1.
func index(lines, part []string) int {
	for at := range len(lines) - len(part) + 1 {
		if slices.Equal(lines[at:at+len(part)], part) {
			return at
		}
	}
	return -1
}
