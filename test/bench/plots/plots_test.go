package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const measured = `{
  "at": "2026-01-02T03:04:05Z", "kernel": "6.1", "cpu": "a CPU", "cpus": 2, "load": "0 0 0", "seconds": 200,
  "rows": [
    {"figure": "cached", "measured": "1 µs", "baseline": "2 µs", "ratio": {"median": 0.5, "low": 0.4, "high": 0.6},
     "minimal": {"median": 1, "low": 0.9, "high": 1.1}, "minimalIs": "another", "target": "≤ 1.1 ×", "result": "met"},
    {"figure": "memory", "measured": "50 MB", "baseline": "–", "value": 50, "target": "≤ 60 MB", "result": "met"}
  ],
  "notes": ["a note"],
  "instructions": [{"program": "sidestep_connect4", "loaded": 10, "verified": 20, "machine": 30}],
  "keepAlive": [{"side": "agent", "percentiles": [1, 2, 3]}],
  "newConnection": [{"side": "agent", "percentiles": [4, 5, 6]}],
  "memory": [{"pods": 0, "rss": 30, "anon": 10}, {"pods": 250, "rss": 50, "anon": 20}]
}`

func TestRun(t *testing.T) {
	dir := t.TempDir()
	in, doc := filepath.Join(dir, "bench.json"), filepath.Join(dir, "performance.md")
	for path, text := range map[string]string{in: measured, doc: "# Before\n" + begin + "old\n" + end + "After\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second changes nothing
		if err := run(in, dir, doc); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# Before\n" + begin + "2026-01-02, 2 × a CPU", "| cached | 1 µs | 2 µs | 0.50 (0.40–0.60) | 1.00 (0.90–1.10) another | ≤ 1.1 × | met |",
		"| memory | 50 MB | – | – | – | ≤ 60 MB | met |", "| `sidestep_connect4` | 10 | 20 | 30 bytes |", "- a note\n" + end + "After\n",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the document lacks %q:\n%s", want, text)
		}
	}
	for _, name := range []string{"latency.svg", "memory.svg"} {
		if plot, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !strings.Contains(string(plot), "</svg>") {
			t.Errorf("%s: error %v, %d bytes", name, err, len(plot))
		}
	}
}

func TestDocumentWithoutGeneratedPart(t *testing.T) {
	doc := filepath.Join(t.TempDir(), "x.md")
	if err := os.WriteFile(doc, []byte("# Before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (report{}).writeInto(doc); err == nil {
		t.Error("no error")
	}
}
