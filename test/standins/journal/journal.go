// Package journal writes and reads the stand-ins' logs: one JSON object a
// line. Stand-ins write, tests read; it knows nothing of what the lines mean.
package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Writer appends entries to a log. It is safe for concurrent use.
type Writer struct {
	mu  sync.Mutex
	out io.Writer
}

// New returns a Writer that appends to out, which stays the caller's to
// close. A nil out keeps no log.
func New(out io.Writer) *Writer {
	if out == nil {
		out = io.Discard
	}
	return &Writer{out: out}
}

// Append writes entry as one line. It panics if entry cannot be written: a
// stand-in whose log has gaps would let a test pass that must not.
func (w *Writer) Append(entry any) {
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false) // people read URLs here
	if err := encoder.Encode(entry); err != nil {
		panic(fmt.Errorf("journal: %w", err))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.out.Write(line.Bytes()); err != nil {
		panic(fmt.Errorf("journal: %w", err))
	}
}

// Read returns the entries of a log in the order in which they were written.
// Fields that E does not have are errors.
func Read[E any](log io.Reader) ([]E, error) {
	decoder := json.NewDecoder(log)
	decoder.DisallowUnknownFields()
	var entries []E
	for {
		var e E
		err := decoder.Decode(&e)
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, fmt.Errorf("journal: entry %d: %w", len(entries)+1, err)
		}
		entries = append(entries, e)
	}
}
