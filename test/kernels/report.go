package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
)

// report prints the table and what is wrong, and returns whether nothing is.
func report(w io.Writer, results []*result) bool {
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "kernel\tpassed\tfailed\tskipped\tseconds")
	for _, r := range results {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%.0f\n", cmp.Or(r.kernel, r.name), r.passed, r.failed, r.skipped, r.took.Seconds())
	}
	table.Flush()
	good := true
	for _, r := range results {
		for _, problem := range r.problems {
			good = false
			fmt.Fprintf(w, "FAIL: %s: %s\n", cmp.Or(r.kernel, r.name), problem)
		}
	}
	return good
}

// tail returns the last lines of a file, or why it cannot.
func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.ReplaceAll(strings.TrimSpace(string(data)), "\r", ""), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
