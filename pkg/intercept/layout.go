package intercept

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// layout is the version of what the pinned maps have in them. It is raised by
// whoever changes the meaning or the size of a key or a value, so that an
// agent never reads what it would misunderstand: the kernel compares sizes
// alone.
const layout uint32 = 2

// layoutPin is a map of one value, the layout of the others beside it.
const layoutPin = "sidestep_layout"

// LayoutError means that the pinned maps were made by an agent of another
// version, whose maps this one does not read.
type LayoutError struct {
	Directory   string
	Found, Want uint32 // Found is 0 where the pins do not say
	Err         error  // what the kernel said; may be nil
}

// Error says what to do.
func (e *LayoutError) Error() string {
	found := fmt.Sprintf("layout %d", e.Found)
	if e.Found == 0 {
		found = "a layout of a version before layouts were numbered"
	}
	s := fmt.Sprintf("the maps in %s have %s and this agent reads layout %d: go back to the version that made them, "+
		"or remove that directory to start from scratch (steered pods are refused until then)", e.Directory, found, e.Want)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns what the kernel said.
func (e *LayoutError) Unwrap() error { return e.Err }

// checkLayout returns the layout that the pins say they have, 0 if they say
// none; a *LayoutError if that is another than ours.
func checkLayout(pins string) (uint32, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(pins, layoutPin), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("open the maps' layout: %w", err)
	}
	defer m.Close()
	var found uint32
	if err := m.Lookup(uint32(0), &found); err != nil {
		return 0, fmt.Errorf("read the maps' layout: %w", err)
	}
	if found != layout && found != 0 {
		return found, &LayoutError{Directory: pins, Found: found, Want: layout}
	}
	return found, nil
}

// openLayout notes that the maps have our layout.
func openLayout(pins string) (*ebpf.Map, error) {
	m, err := ebpf.NewMapWithOptions(&ebpf.MapSpec{
		Name: layoutPin, Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1, Pinning: ebpf.PinByName,
	}, ebpf.MapOptions{PinPath: pins})
	if errors.Is(err, os.ErrExist) { // another agent has just made it
		m, err = ebpf.LoadPinnedMap(filepath.Join(pins, layoutPin), nil)
	}
	if err != nil {
		return nil, fmt.Errorf("pin the maps' layout: %w", err)
	}
	if err := m.Update(uint32(0), layout, ebpf.UpdateAny); err != nil {
		return nil, errors.Join(fmt.Errorf("write the maps' layout: %w", err), m.Close())
	}
	return m, nil
}
