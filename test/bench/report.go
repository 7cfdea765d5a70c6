package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"text/tabwriter"
	"time"
)

// result says whether a row's target is met.
type result string

const (
	met    result = "met"
	missed result = "MISSED"
	// bound: missed, and as far as the run can tell so by the minimal program,
	// which does nothing but what the row cannot be had without, and by as much.
	bound result = "bound"
)

// row is one figure of the table.
type row struct {
	Figure   string `json:"figure"`
	Measured string `json:"measured"` // ours, with its unit
	Baseline string `json:"baseline"`
	// Ratio is what the target is about; nil where it is about Value.
	Ratio *ratio `json:"ratio,omitempty"`
	// Minimal is the same of the minimal program, MinimalIs.
	Minimal   *ratio  `json:"minimal,omitempty"`
	MinimalIs string  `json:"minimalIs,omitempty"`
	Value     float64 `json:"value"`
	Target    string  `json:"target"`
	Result    result  `json:"result"`
}

// limit is a target for a number.
type limit struct {
	low, high float64
	unit      string
}

func atMost(v float64, unit string) limit  { return limit{math.Inf(-1), v, unit} }
func atLeast(v float64, unit string) limit { return limit{v, math.Inf(1), unit} }
func exactly(v float64) limit              { return limit{v, v, ""} }

func (l limit) holds(v float64) bool { return l.low <= v && v <= l.high }

// String returns the limit as the table has it.
func (l limit) String() string {
	switch {
	case l.low == l.high:
		return fmt.Sprintf("%g", l.low)
	case math.IsInf(l.low, -1):
		return fmt.Sprintf("≤ %g%s", l.high, l.unit)
	default:
		return fmt.Sprintf("≥ %g%s", l.low, l.unit)
	}
}

// ratioRow returns the row of a ratio, and of the minimal program's.
func ratioRow(figure, measured, baseline string, ours, minimal ratio, minimalIs string, target limit) row {
	r := row{
		Figure: figure, Measured: measured, Baseline: baseline, Ratio: &ours, Minimal: &minimal, MinimalIs: minimalIs,
		Value: ours.Median, Target: target.String(), Result: met,
	}
	switch {
	case target.holds(ours.Median):
	case (!target.holds(minimal.Low) || !target.holds(minimal.High)) && ours.Low <= minimal.High && minimal.Low <= ours.High:
		r.Result = bound
	default:
		r.Result = missed
	}
	return r
}

// valueRow returns the row of a number that is compared with nothing.
func valueRow(figure, measured, baseline string, v float64, target limit) row {
	r := row{Figure: figure, Measured: measured, Baseline: baseline, Value: v, Target: target.String(), Result: met}
	if !target.holds(v) {
		r.Result = missed
	}
	return r
}

// boundBy notes the minimal program's number, and takes a row that is missed
// for bound if that misses, too.
func (r *row) boundBy(minimal float64, target limit, is string) {
	r.MinimalIs = is
	if r.Result == missed && !target.holds(minimal) {
		r.Result = bound
	}
}

// spread is how one side's latencies lie, in microseconds by percentile.
type spread struct {
	Side        string    `json:"side"`
	Percentiles []float64 `json:"percentiles"`
}

// memory is what the agent holds for so many pods, in MB.
type memory struct {
	Pods int     `json:"pods"`
	RSS  float64 `json:"rss"`
	Anon float64 `json:"anon"` // of RSS: not from files
}

// instructions are what the kernel has of a program.
type instructions struct {
	Program  string `json:"program"`
	Loaded   int    `json:"loaded"`
	Verified uint32 `json:"verified"` // that the verifier walked; 0: the kernel does not say
	Machine  uint32 `json:"machine"`  // bytes of machine code; 0: not compiled
}

// report is all that was measured.
type report struct {
	At           time.Time      `json:"at"`
	Version      string         `json:"version"`
	Kernel       string         `json:"kernel"`
	CPU          string         `json:"cpu"`
	CPUs         int            `json:"cpus"`
	Load         string         `json:"load"` // averages when it began
	Seconds      float64        `json:"seconds"`
	Rows         []row          `json:"rows"`
	Notes        []string       `json:"notes"`
	Instructions []instructions `json:"instructions"`
	KeepAlive    []spread       `json:"keepAlive"`
	NewConn      []spread       `json:"newConnection"`
	Memory       []memory       `json:"memory"`
}

// failed returns how many rows are missed.
func (r *report) failed() int {
	n := 0
	for _, row := range r.Rows {
		if row.Result == missed {
			n++
		}
	}
	return n
}

func (r *report) json(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// String returns the median with the bounds of its confidence.
func (r ratio) String() string { return fmt.Sprintf("%.2f (%.2f–%.2f)", r.Median, r.Low, r.High) }

// spread returns the median with the spread of the rounds.
func (r ratio) spread() string {
	return fmt.Sprintf("%.2f, four fifths of the rounds %.2f–%.2f", r.Median, r.P10, r.P90)
}

// table prints the rows, the programs and the notes.
func (r *report) table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FIGURE\tMEASURED\tBASELINE\tRATIO\tMINIMAL PROGRAM\tTARGET\tRESULT")
	for _, row := range r.Rows {
		ours, minimal := "–", "–"
		if row.Ratio != nil {
			ours = row.Ratio.String()
		}
		if row.Minimal != nil {
			minimal = row.Minimal.String() + " " + row.MinimalIs
		} else if row.MinimalIs != "" {
			minimal = row.MinimalIs
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", row.Figure, row.Measured, row.Baseline, ours, minimal, row.Target, row.Result)
	}
	fmt.Fprintln(t, "\nPROGRAM\tINSTRUCTIONS\tVERIFIER WALKED\tMACHINE CODE")
	for _, i := range r.Instructions {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d bytes\n", i.Program, i.Loaded, i.Verified, i.Machine)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, note := range r.Notes {
		fmt.Fprintln(w, note)
	}
	counted := map[result]int{}
	for _, row := range r.Rows {
		counted[row.Result]++
	}
	_, err := fmt.Fprintf(w, "\nbench: %d met, %d bound, %d missed, in %.0f s on %d × %s, Linux %s, load %s\n",
		counted[met], counted[bound], counted[missed], r.Seconds, r.CPUs, r.CPU, r.Kernel, r.Load)
	return err
}
