package intercept

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// pin is one file on the BPF filesystem that keeps a map or a link alive
// beyond this process.
type pin struct {
	object string // what the log and the metric call it
	path   string
	pinned interface {
		Pin(path string) error
		Unpin() error
	}
	inode uint64 // of the file that is known to be ours; 0: none yet
}

// restore makes the file if it is not there, or is not ours, and reports
// whether it did. It looks at the file's inode alone, to be cheap.
func (p *pin) restore(bpffs string) (made bool, err error) {
	now, err := inode(p.path)
	if err == nil && now == p.inode {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := checkBPFFS(bpffs); err != nil {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(p.path), 0o700); err != nil {
		return false, fmt.Errorf("make the pin directory: %w", err)
	}
	// Unpin has the library forget a pin that others removed: else it would
	// not pin again.
	if err := errors.Join(unpin(p.path), p.pinned.Unpin(), p.pinned.Pin(p.path)); err != nil {
		return false, fmt.Errorf("pin %s: %w", p.path, err)
	}
	p.inode, err = inode(p.path)
	return true, err
}

// pinnedMaps returns all maps that are pinned, by their pins' names.
func (h *Hooks) pinnedMaps() map[string]*ebpf.Map {
	m := &h.objects.kernelMaps
	return map[string]*ebpf.Map{
		"sidestep_settings": m.SidestepSettings,
		"sidestep_verdicts": m.SidestepVerdicts,
		"sidestep_flows":    m.SidestepFlows,
		"sidestep_usage":    m.SidestepUsage,
		"sidestep_claims":   m.SidestepClaims,
		"sidestep_tags":     m.SidestepTags,
		"sidestep_connects": m.SidestepConnects,
		"sidestep_drops":    m.SidestepDrops,
		"sidestep_links":    m.SidestepLinks,
		"sidestep_unknowns": m.SidestepUnknowns,
		layoutPin:           h.layout,
	}
}

// mapPins returns the pins of all maps, which are there.
func (h *Hooks) mapPins() ([]*pin, error) {
	var all []*pin
	for name, m := range h.pinnedMaps() {
		p := &pin{object: mapObject, path: filepath.Join(h.pins, name), pinned: m}
		if name == layoutPin {
			p.path = filepath.Join(h.root, name)
		}
		var err error
		if p.inode, err = inode(p.path); err != nil {
			return nil, fmt.Errorf("look at a map's pin: %w", err)
		}
		all = append(all, p)
	}
	return all, nil
}

// unpin removes a pin, and with it what is attached if no process has it open. To
// remove what is not there is no error.
func unpin(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
