package bootguard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// State is what the boot guard has done on this node since it booted.
type State string

// The states. A boot guard that is installed has not held if it came after the
// boot, and if its unit failed.
const (
	Absent    State = ""
	Installed State = "installed"
	Held      State = "held"
)

// markerName is a file in the state directory, which a boot empties. It tells
// those who see no more of the host that there is a boot guard.
const markerName = "boot-guard"

// Current returns what has been noted in the state directory.
func (f Files) Current() (State, error) {
	text, err := os.ReadFile(f.at(f.marker()))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Absent, nil
	case err != nil:
		return Absent, fmt.Errorf("bootguard: %w", err)
	case State(text) == Held:
		return Held, nil
	}
	return Installed, nil
}

// NoteHeld notes that the programs were attached before the kubelet started.
func (f Files) NoteHeld() error { return WriteFile(f.at(f.marker()), []byte(Held), 0o600) }

// noteInstalled notes that there is a boot guard, unless more is known of it.
func (f Files) noteInstalled() error {
	state, err := f.Current()
	if err != nil || state != Absent {
		return err
	}
	return WriteFile(f.at(f.marker()), []byte(Installed), 0o600)
}
