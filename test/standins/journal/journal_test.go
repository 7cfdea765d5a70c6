package journal

import (
	"bytes"
	"strings"
	"sync"
	"testing"
)

type entry struct {
	Name string `json:"name"`
}

func TestConcurrentEntriesStayWhole(t *testing.T) {
	var out bytes.Buffer
	w := New(&out)
	var writers sync.WaitGroup
	for range 50 {
		writers.Go(func() { w.Append(entry{Name: strings.Repeat("x", 100)}) })
	}
	writers.Wait()
	if got, want := strings.Count(out.String(), "\n"), 50; got != want {
		t.Errorf("%d lines, want %d", got, want)
	}
	entries, err := Read[entry](&out)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 50 {
		t.Errorf("%d entries, want 50", len(entries))
	}
}

func TestReadRefusesWhatItDoesNotKnow(t *testing.T) {
	if _, err := Read[entry](strings.NewReader(`{"name":"a","other":1}`)); err == nil {
		t.Error("an unknown field was read without an error")
	}
}
