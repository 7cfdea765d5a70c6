package intercept

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// place is where one of the programs belongs.
type place struct {
	object  string // what the log and the metric call it
	pin     string // the path
	program *ebpf.Program
	id      uint64 // of the cgroup, or the index of the interface
	attach  func() (link.Link, error)
	decides bool // by verdicts and settings: those of one layout at a time
	// where returns the id of where a link is attached, 0 for nowhere.
	where func(*link.Info) (uint64, error)
}

// keptLink is a link that this process has open beside its pin, so that who
// removes the pin detaches nothing.
type keptLink struct {
	link.Link
	pin
	id uint64 // as in place
}

// newKept returns a link that was taken over with its pin, or has none yet.
func newKept(l link.Link, p place) *keptLink {
	kept := &keptLink{Link: l, id: p.id, pin: pin{object: p.object, path: p.pin, pinned: l}}
	kept.inode, _ = inode(p.pin) // 0: none
	return kept
}

// keep makes sure that the program is attached at its place. What this process
// had left otherwise is repaired, and counted. Pins are another matter: a link
// is kept also where it cannot be pinned. The caller holds mu.
func (h *Hooks) keep(p place) error {
	l := h.links[p.pin]
	if l == nil {
		return h.begin(p)
	}
	info, err := l.Info()
	if err != nil {
		return fmt.Errorf("read the link: %w", err)
	}
	at, err := p.where(info)
	if err != nil {
		return err
	}
	want, err := h.idOf(p.program)
	if err != nil {
		return err
	}
	switch {
	case l.id != p.id:
		return h.replace(p, moved)
	case at != p.id:
		return h.replace(p, detached)
	case info.Program != want:
		if err := l.Update(p.program); err != nil {
			return err
		}
		h.repairs.add(p.object, replaced)
	}
	return nil
}

// begin takes over the link that an earlier agent pinned, or makes one. A
// program that follows what connect() decided is attached beside one of another
// layout: each goes by the claims in its own maps alone.
func (h *Hooks) begin(p place) error {
	l, err := adopt(p)
	if err == nil && l == nil && p.decides {
		l, err = h.takeOver(p)
	}
	if err == nil && l == nil {
		l, err = p.attach()
	}
	if err != nil {
		return err
	}
	h.links[p.pin] = newKept(l, p)
	return nil
}

// adopt puts the program behind the pinned link and returns that, if it is
// attached to the right place; else it removes the pin and returns nil.
func adopt(p place) (link.Link, error) {
	l, err := link.LoadPinnedLink(p.pin, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the pinned link: %w", err)
	}
	info, err := l.Info()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the pinned link: %w", err), l.Close())
	}
	at, err := p.where(info)
	if err == nil && at == p.id {
		if err = l.Update(p.program); err == nil {
			return l, nil
		}
	} else if err == nil {
		err = l.Unpin()
	}
	return nil, errors.Join(err, l.Close())
}

// replace attaches the program again and closes the former link.
func (h *Hooks) replace(p place, c cause) error {
	l, err := p.attach()
	if err != nil {
		return err
	}
	h.repairs.add(p.object, c)
	err = h.letGo(p.pin)
	h.links[p.pin] = newKept(l, p)
	return err
}

// restore puts back a pin, and counts that.
func (h *Hooks) restore(p *pin) error {
	known := p.inode != 0
	made, err := p.restore(h.bpffs)
	if made && known {
		h.repairs.add(p.object, unpinned)
	}
	return err
}

// letGo detaches what is pinned there, and what agents of other layouts have
// pinned by that name.
func (h *Hooks) letGo(path string) error {
	var err error
	if l := h.links[path]; l != nil {
		err = l.Close()
		delete(h.links, path)
	}
	errs := []error{err, unpin(path)}
	for _, pin := range h.othersPins(filepath.Base(path)) {
		errs = append(errs, unpin(pin))
	}
	return errors.Join(errs...)
}

// idOf returns the number by which the kernel names a program.
func (h *Hooks) idOf(program *ebpf.Program) (ebpf.ProgramID, error) {
	if id, ok := h.ids[program]; ok {
		return id, nil
	}
	info, err := program.Info()
	if err != nil {
		return 0, fmt.Errorf("read the program's id: %w", err)
	}
	id, ok := info.ID()
	if !ok {
		return 0, errors.New("the kernel tells no program's id")
	}
	h.ids[program] = id
	return id, nil
}
