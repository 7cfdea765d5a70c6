// Package row is the form in which a test says which fault it made, what was
// expected and what was seen, for the table of faults. A test logs the line; a
// row has failed if its test has.
package row

import "strings"

// Row is one line of the table.
type Row struct {
	Fault, Expected, Seen string
}

const (
	prefix    = "fault: "
	separator = " | "
)

// String returns the row as tests log it: "fault: name | expected | seen".
func (r Row) String() string {
	return prefix + strings.Join([]string{r.Fault, r.Expected, r.Seen}, separator)
}

// Parse returns the row that a line has in it, which may begin with where it
// was logged; false if it has none.
func Parse(line string) (Row, bool) {
	_, said, ok := strings.Cut(line, prefix)
	if !ok {
		return Row{}, false
	}
	parts := strings.SplitN(strings.TrimSpace(said), separator, 3)
	if len(parts) < 3 {
		return Row{}, false
	}
	return Row{Fault: parts[0], Expected: parts[1], Seen: parts[2]}, true
}
