package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

const exposition = `# HELP sidestep_connects_total Connects to the metadata service from pods.
# TYPE sidestep_connects_total counter
sidestep_connects_total{family="ipv4",verdict="steer"} 3
sidestep_connects_total{family="ipv6",verdict="steer"} 0
# TYPE sidestep_pods gauge
sidestep_pods{verdict="pass"} 7
`

func TestParseCounters(t *testing.T) {
	got, err := parseCounters([]byte(exposition))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]connects{{"steer", "ipv4", 3}, {"steer", "ipv6", 0}}, got); diff != "" {
		t.Error(diff)
	}
	for _, text := range []string{"", "sidestep_pods 1\n", "no exposition"} {
		if got, err := parseCounters([]byte(text)); err == nil {
			t.Errorf("%q was taken for %v", text, got)
		}
	}
}

func TestMoved(t *testing.T) {
	before := []connects{{"pass", "ipv4", 1}, {"steer", "ipv4", 3}, {"steer", "ipv6", 0}}
	after := []connects{{"pass", "ipv4", 2}, {"steer", "ipv4", 3}, {"steer", "ipv6", 2}}
	want := []connects{{"steer", "ipv6", 2}, {"pass", "ipv4", 1}}
	if diff := cmp.Diff(want, moved(before, after)); diff != "" {
		t.Error(diff)
	}
	if got := moved(before, nil); got != nil {
		t.Errorf("without a reading after: %v", got)
	}
}
