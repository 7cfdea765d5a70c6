package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

const (
	// memoryGrowth is how much of the baseline memory may grow by.
	memoryGrowth = 0.10
	// highWater is what the live heap may grow by besides: Go's runtime never
	// frees the descriptors of goroutines that have ended (400 bytes each of as
	// many as ever ran at a time), and packages keep what they have once learnt
	// of types. A profile of a run showed that and nothing else.
	highWater = 1 << 10 // KiB
)

// difference is a figure that is not as it was.
type difference struct {
	Figure        string
	Before, After int64
}

func (d difference) String() string { return fmt.Sprintf("%s %d → %d", d.Figure, d.Before, d.After) }

// compare returns the figures that are not as they were, by name. Memory may
// grow a little, and shrink; all else must be equal.
func compare(before, after figures) []difference {
	var all []difference
	for _, name := range union(before, after) {
		d := difference{name, before[name], after[name]}
		most := d.Before
		if name == residentMemory || name == liveHeap {
			most += int64(memoryGrowth * float64(d.Before))
			if name == liveHeap {
				most += highWater
			}
			d.Before = min(d.Before, d.After)
		}
		if d.After > most || d.After < d.Before {
			all = append(all, difference{name, before[name], after[name]})
		}
	}
	return all
}

func union(before, after figures) []string {
	all := maps.Clone(before)
	maps.Copy(all, after)
	return slices.Sorted(maps.Keys(all))
}

// printFigures prints both side by side.
func printFigures(w io.Writer, before, after figures) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer func() { _ = table.Flush() }()
	fmt.Fprintln(table, "FIGURE\tBASELINE\tAFTER\t")
	leaked := map[string]string{}
	for _, d := range compare(before, after) {
		leaked[d.Figure] = "NOT AS IT WAS"
	}
	for _, name := range union(before, after) {
		fmt.Fprintf(table, "%s\t%d\t%d\t%s\n", name, before[name], after[name], leaked[name])
	}
}

// printLeaks prints by what each leak was seen, and returns how many were.
func printLeaks(w io.Writer, found []result) (seen int) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer func() { _ = table.Flush() }()
	fmt.Fprintln(table, "INJECTED LEAK\tFIGURE\tBASELINE\tAFTER\t")
	for i, l := range leaks {
		before, after, what := found[i].Before[l.figure], found[i].After[l.figure], "NOT SEEN"
		if slices.ContainsFunc(found[i].leaked(), func(d difference) bool { return d.Figure == l.figure && d.After > d.Before }) {
			what, seen = "seen", seen+1
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%s\n", l.name, l.figure, before, after, what)
	}
	return seen
}
