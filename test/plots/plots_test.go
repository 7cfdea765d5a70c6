package main

import (
	"fmt"
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

const scaled = `[
  {"agents": 10, "pods": 300, "watches": 510, "residentMB": 300, "restCPU": 0.02, "renewals": 1.1, "agentKB": 90,
   "restart": {"lists": 1, "watches": 520, "refused": 2, "peakPerSecond": 230}, "backAfter": 31.4},
  {"agents": 100, "extrapolated": true, "pods": 3000, "watches": 5100, "residentMB": 400, "restCPU": 0.2, "renewals": 11, "agentKB": 90}
]`

var benchPart, scalePart = fmt.Sprintf(begin, "bench"), fmt.Sprintf(begin, "scale")

func TestRun(t *testing.T) {
	dir := t.TempDir()
	o := options{
		bench: filepath.Join(dir, "bench.json"), scale: filepath.Join(dir, "scale.json"),
		out: filepath.Join(dir, "out"), doc: filepath.Join(dir, "performance.md"),
	}
	for path, text := range map[string]string{
		o.bench: measured, o.scale: scaled,
		o.doc: "# Before\n" + benchPart + "old\n" + end + "Between\n" + scalePart + end + "After\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second changes nothing
		if err := run(o); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(o.doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# Before\n" + benchPart + "2026-01-02, 2 × a CPU", "| cached | 1 µs | 2 µs | 0.50 (0.40–0.60) | 1.00 (0.90–1.10) another | ≤ 1.1 × | met |",
		"| memory | 50 MB | – | – | – | ≤ 60 MB | met |", "| `sidestep_connect4` | 10 | 20 | 30 bytes |", "- a note\n" + end + "Between\n" + scalePart + "| agents |",
		"| 10 | 300 | 510 | 300 MB | 0.020 s/s | 0.00 | 1.10 | 90 KB | 1, 520, 2 | 230 | 31.4 s | 0 |\n",
		"| 100 (extrapolated) | 3000 | 5100 | 400 MB | 0.200 s/s | 0.00 | 11.00 | 90 KB | – | – | – | – |\n" + end + "After\n",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the document lacks %q:\n%s", want, text)
		}
	}
	for _, name := range []string{"latency.svg", "memory.svg", "scale.svg"} {
		if plot, err := os.ReadFile(filepath.Join(o.out, name)); err != nil || !strings.Contains(string(plot), "</svg>") {
			t.Errorf("%s: error %v, %d bytes", name, err, len(plot))
		}
	}
}

func TestDocumentWithoutGeneratedPart(t *testing.T) {
	doc := filepath.Join(t.TempDir(), "x.md")
	if err := os.WriteFile(doc, []byte("# Before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeInto(doc, "bench", "new"); err == nil {
		t.Error("no error")
	}
}
