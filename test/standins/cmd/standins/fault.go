package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/sidestep-agent/sidestep/test/standins/entra"
)

const lookInterval = 200 * time.Millisecond

var errRefuse = errors.New(`"refuse" is not for a command that shares its listener: end the command`)

// faultFile breaks the Entra stand-in as a file says.
type faultFile struct {
	path string // empty: there is none
	set  func(entra.Fault)
	last []byte
}

// follow looks at the file until ctx ends.
func (f *faultFile) follow(ctx context.Context) {
	if f.path == "" {
		return
	}
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for {
		if err := f.look(); err != nil {
			fmt.Fprintln(os.Stderr, "standins: fault:", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// look sets the fault if the file has another content than the last time.
func (f *faultFile) look() error {
	text, err := os.ReadFile(f.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text = bytes.TrimSpace(text)
	if bytes.Equal(text, f.last) {
		return nil
	}
	f.last = text
	var fault entra.Fault
	if len(text) > 0 {
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&fault); err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
	}
	if fault.Refuse {
		return errRefuse
	}
	f.set(fault)
	return nil
}
