package scene

import (
	"bytes"
	"slices"
	"sync"

	"github.com/sidestep-agent/sidestep/test/standins/journal"
)

// Record keeps a log in memory, to be read while it is written.
type Record struct {
	mu   sync.Mutex
	text []byte
}

// Write implements io.Writer.
func (r *Record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text = append(r.text, p...)
	return len(p), nil
}

// Whole returns a copy of the complete lines written so far.
func (r *Record) Whole() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.text[:bytes.LastIndexByte(r.text, '\n')+1])
}

// Entries returns all entries of a stand-in's log.
func Entries[E any](r *Record) ([]E, error) {
	return journal.Read[E](bytes.NewReader(r.Whole()))
}
