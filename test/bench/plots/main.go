// Command plots draws what test/bench has measured, and writes its table into
// the document about it. It is a module of its own, so that the library that
// draws is no dependency of the project.
package main

import (
	"encoding/json"
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
	in := flag.String("in", "out/bench.json", "what test/bench has written")
	out := flag.String("out", "out", "directory for the plots")
	doc := flag.String("doc", "", "document whose generated part is written anew; empty: none")
	flag.Parse()
	if err := run(*in, *out, *doc); err != nil {
		fmt.Fprintln(os.Stderr, "plots:", err)
		os.Exit(1)
	}
}

func run(in, out, doc string) error {
	text, err := os.ReadFile(in)
	if err != nil {
		return err
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("%s: %w", in, err)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	if err := r.drawLatency(filepath.Join(out, "latency.svg")); err != nil {
		return err
	}
	if err := r.drawMemory(filepath.Join(out, "memory.svg")); err != nil {
		return err
	}
	if doc == "" {
		return nil
	}
	return r.writeInto(doc)
}
