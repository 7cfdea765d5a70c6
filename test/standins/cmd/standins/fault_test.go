package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sidestep-agent/sidestep/test/standins/entra"
)

func TestFaultFileIsFollowed(t *testing.T) {
	var set []entra.Fault
	f := &faultFile{path: filepath.Join(t.TempDir(), "fault.json"), set: func(fault entra.Fault) { set = append(set, fault) }}
	for _, step := range []struct {
		text string // "-": no file
		want int    // faults set so far
		last entra.Fault
		bad  bool
	}{
		{text: "-"},
		{text: `{"status": 429, "retryAfter": "5"}`, want: 1, last: entra.Fault{Status: 429, RetryAfter: "5"}},
		{text: `{"status": 429, "retryAfter": "5"}`, want: 1, last: entra.Fault{Status: 429, RetryAfter: "5"}},
		{text: `{"stats": 429}`, want: 1, last: entra.Fault{Status: 429, RetryAfter: "5"}, bad: true},
		{text: `{"refuse": true}`, want: 1, last: entra.Fault{Status: 429, RetryAfter: "5"}, bad: true},
		{text: `{"hang": true}`, want: 2, last: entra.Fault{Hang: true}},
		{text: "-", want: 3},
	} {
		_ = os.Remove(f.path)
		if step.text != "-" {
			if err := os.WriteFile(f.path, []byte(step.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.look(); (err != nil) != step.bad {
			t.Errorf("%s: error %v", step.text, err)
		}
		if len(set) != step.want {
			t.Fatalf("%s: %d faults were set, want %d", step.text, len(set), step.want)
		}
		if len(set) > 0 && set[len(set)-1] != step.last {
			t.Errorf("%s: fault %+v, want %+v", step.text, set[len(set)-1], step.last)
		}
	}
}
