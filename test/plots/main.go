// Command plots draws what test/bench and test/scale have measured, and writes
// their tables into the document about it. It is a module of its own, so that
// the library that draws is no dependency of the project.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

// report is what is read of bench.json.
type report struct {
	At      string  `json:"at"`
	Kernel  string  `json:"kernel"`
	CPU     string  `json:"cpu"`
	CPUs    int     `json:"cpus"`
	Load    string  `json:"load"`
	Seconds float64 `json:"seconds"`
	Rows    []struct {
		Figure    string  `json:"figure"`
		Measured  string  `json:"measured"`
		Baseline  string  `json:"baseline"`
		Ratio     *ratio  `json:"ratio"`
		Minimal   *ratio  `json:"minimal"`
		MinimalIs string  `json:"minimalIs"`
		Value     float64 `json:"value"`
		Target    string  `json:"target"`
		Result    string  `json:"result"`
	} `json:"rows"`
	Notes        []string `json:"notes"`
	Instructions []struct {
		Program  string `json:"program"`
		Loaded   int    `json:"loaded"`
		Verified int    `json:"verified"`
		Machine  int    `json:"machine"`
	} `json:"instructions"`
	KeepAlive     []spread `json:"keepAlive"`
	NewConnection []spread `json:"newConnection"`
	Memory        []struct {
		Pods int     `json:"pods"`
		RSS  float64 `json:"rss"`
		Anon float64 `json:"anon"`
	} `json:"memory"`
}

type ratio struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
}

// spread has one side's latencies by percentile, in microseconds.
type spread struct {
	Side        string    `json:"side"`
	Percentiles []float64 `json:"percentiles"`
}

func main() {
	var o options
	flag.StringVar(&o.bench, "bench", "", "what test/bench has written; empty: nothing")
	flag.StringVar(&o.scale, "scale", "", "what test/scale has written; empty: nothing")
	flag.StringVar(&o.out, "out", "out", "directory for the plots")
	flag.StringVar(&o.doc, "doc", "", "document whose generated parts are replaced; empty: none")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "plots:", err)
		os.Exit(1)
	}
}

// options are the program's flags.
type options struct{ bench, scale, out, doc string }

func run(o options) error {
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	if o.bench != "" {
		if err := showBench(o); err != nil {
			return fmt.Errorf("%s: %w", o.bench, err)
		}
	}
	if o.scale != "" {
		if err := showScale(o); err != nil {
			return fmt.Errorf("%s: %w", o.scale, err)
		}
	}
	return nil
}

func showBench(o options) error {
	var r report
	if err := read(o.bench, &r); err != nil {
		return err
	}
	return errors.Join(
		r.drawLatency(filepath.Join(o.out, "latency.svg")), r.drawMemory(filepath.Join(o.out, "memory.svg")),
		writeInto(o.doc, "bench", r.markdown()))
}

func showScale(o options) error {
	var steps []step
	if err := read(o.scale, &steps); err != nil {
		return err
	}
	return errors.Join(drawScale(filepath.Join(o.out, "scale.svg"), steps), writeInto(o.doc, "scale", scaleTable(steps)))
}

func read(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}
