package main

import (
	"slices"
	"testing"
	"time"
)

func TestOrderOfSuites(t *testing.T) {
	units, kernel, node := &suite{name: "units", rounds: 4}, &suite{name: "kernel", rounds: 3, first: true}, &suite{name: "node", rounds: 2}
	s := &stress{all: []*suite{units, kernel, node}, until: time.Now().Add(time.Hour)}
	var got []string
	for {
		next, _ := s.take(t.Context(), nil)
		if next == nil {
			break
		}
		got = append(got, next.name)
	}
	want := []string{"units", "kernel", "node", "kernel", "kernel", "units", "units", "node", "units"}
	if !slices.Equal(got, want) {
		t.Errorf("suites run in the order %q, want %q", got, want)
	}
}
