package main

import (
	"bytes"
	"strings"
	"testing"
)

func at(v float64) ratio { return ratio{Median: v, Low: v - 0.01, High: v + 0.01} }

func TestResults(t *testing.T) {
	for name, test := range map[string]struct {
		ours, minimal ratio
		target        limit
		want          result
	}{
		"met":                         {at(1.04), at(1.0), atMost(1.05, ""), met},
		"missed":                      {at(1.08), at(1.0), atMost(1.05, ""), missed},
		"missed by both":              {at(1.08), at(1.07), atMost(1.05, ""), bound},
		"missed by us by more":        {at(1.10), at(1.07), atMost(1.05, ""), missed},
		"the least is not clear":      {at(1.06), at(1.045), atMost(1.05, ""), bound},
		"met by us alone":             {at(1.04), at(1.07), atMost(1.05, ""), met},
		"least, met":                  {at(0.99), at(1.0), atLeast(0.98, ""), met},
		"least, missed":               {at(0.9), at(1.0), atLeast(0.98, ""), missed},
		"least, missed by both":       {at(0.94), at(0.95), atLeast(0.98, ""), bound},
		"least, missed by us by more": {at(0.9), at(0.95), atLeast(0.98, ""), missed},
	} {
		if got := ratioRow("f", "m", "b", test.ours, test.minimal, "minimal", test.target); got.Result != test.want {
			t.Errorf("%s: %s, want %s", name, got.Result, test.want)
		}
	}
}

func TestValueRows(t *testing.T) {
	row := valueRow("f", "m", "b", 99.5, atLeast(99.9, " %"))
	if row.Result != missed {
		t.Fatalf("%s, want missed", row.Result)
	}
	if row.boundBy(100, atLeast(99.9, " %"), "a watcher"); row.Result != missed {
		t.Errorf("%s though the minimal program does it", row.Result)
	}
	if row.boundBy(98, atLeast(99.9, " %"), "a watcher"); row.Result != bound {
		t.Errorf("%s though the minimal program does not either", row.Result)
	}
	if row := valueRow("f", "m", "b", 0, exactly(0)); row.Result != met || row.Target != "0" {
		t.Errorf("%+v, want met", row)
	}
}

func TestTable(t *testing.T) {
	r := &report{Rows: []row{
		ratioRow("cached", "1 µs", "2 µs", at(0.5), at(1), "another", atMost(1.1, " ×")),
		valueRow("memory", "70 MB", "–", 70, atMost(60, " MB")),
	}}
	var out bytes.Buffer
	if err := r.table(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"0.50 (0.49–0.51)", "1.00 (0.99–1.01) another", "≤ 1.1 ×", "MISSED", "bench: 1 met, 0 bound, 1 missed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
	if r.failed() != 1 {
		t.Errorf("%d failed, want 1", r.failed())
	}
}

func TestAnswerSize(t *testing.T) {
	const whole = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
	for cut, want := range map[int]int{10: 0, len(whole) - 6: 0, len(whole) - 5: len(whole), len(whole): len(whole)} {
		if got, err := answerSize([]byte(whole[:cut])); err != nil || got != want {
			t.Errorf("of %d bytes: %d, %v; want %d", cut, got, err, want)
		}
	}
	for _, text := range []string{"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"} {
		if _, err := answerSize([]byte(text)); err == nil {
			t.Errorf("%q is taken for a token", text)
		}
	}
}
