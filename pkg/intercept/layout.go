package intercept

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf"
)

// layout is the version of what the pinned maps have in them. It is raised by
// whoever changes the meaning or the size of a key or a value, so that an
// agent never reads what it would misunderstand: the kernel compares sizes
// alone. What bpf/maps.h says all layouts have alike may not be changed.
const layout uint32 = 2

// flatLayout is the last layout whose pins are in PinDirectory itself. Each
// later one has a directory of its own below it.
const flatLayout = 2

// layoutPin is a map of one value in PinDirectory, whichever the layout is: the
// layout by whose maps the attached programs decide. An agent of before
// otherlayout.go refuses to start where that is not its own.
const layoutPin = "sidestep_layout"

// layoutDirectories begins the names of layouts' directories.
const layoutDirectories = "layout-"

// layoutDirectory returns where the pins of a layout are, below root, the
// PinDirectory.
func layoutDirectory(root string, layout uint32) string {
	if layout <= flatLayout {
		return root
	}
	return filepath.Join(root, layoutDirectories+strconv.FormatUint(uint64(layout), 10))
}

// LayoutError means that the pinned maps cannot be taken over, nor left beside
// this agent's own.
type LayoutError struct {
	Directory   string
	Found, Want uint32 // Found is 0 where the pins do not say
	Err         error  // what the kernel said; may be nil
}

// Error says what to do.
func (e *LayoutError) Error() string {
	found := fmt.Sprintf("layout %d", e.Found)
	if e.Found == 0 {
		found = "the layout of an old version"
	}
	s := fmt.Sprintf("the maps in %s have %s, and this agent, of layout %d, cannot take them over: "+
		"go back to the version that made them, or drain the node and run `agent uninstall` there first "+
		"(to remove the maps lets every pod reach the node's metadata service until this agent runs)", e.Directory, found, e.Want)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns what the kernel said.
func (e *LayoutError) Unwrap() error { return e.Err }

// activeLayout returns the layout by whose maps the attached programs decide, 0
// where the pins do not say.
func activeLayout(root string) (uint32, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(root, layoutPin), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("open the maps' layout: %w", err)
	}
	defer m.Close()
	return readLayout(m)
}

func readLayout(m *ebpf.Map) (found uint32, err error) {
	if err := m.Lookup(uint32(0), &found); err != nil {
		return 0, fmt.Errorf("read the maps' layout: %w", err)
	}
	return found, nil
}

// checkFlat returns a *LayoutError where the directory that this agent's pins
// belong into has maps of an older layout.
func checkFlat(root string, active uint32) error {
	if layout > flatLayout || active == 0 || active >= layout {
		return nil
	}
	return &LayoutError{Directory: root, Found: active, Want: layout}
}

// openLayout returns the map that names the active layout. Where there is none
// it makes one: with our layout, unless the programs of another are there.
func openLayout(root string, others bool) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(root, layoutPin), nil)
	if !errors.Is(err, fs.ErrNotExist) {
		if err != nil {
			return nil, fmt.Errorf("open the maps' layout: %w", err)
		}
		return m, nil
	}
	m, err = ebpf.NewMapWithOptions(&ebpf.MapSpec{
		Name: layoutPin, Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1, Pinning: ebpf.PinByName,
	}, ebpf.MapOptions{PinPath: root})
	if errors.Is(err, os.ErrExist) { // another agent has just made it
		return ebpf.LoadPinnedMap(filepath.Join(root, layoutPin), nil)
	}
	if err != nil {
		return nil, fmt.Errorf("pin the maps' layout: %w", err)
	}
	if others {
		return m, nil
	}
	if err := writeLayout(m); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func writeLayout(m *ebpf.Map) error {
	if err := m.Update(uint32(0), layout, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("write the maps' layout: %w", err)
	}
	return nil
}
