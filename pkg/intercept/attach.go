package intercept

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

type hook struct {
	name    string
	attach  ebpf.AttachType
	program *ebpf.Program
	// decides says that the program goes by verdicts and settings; else it goes
	// by the claims that a connect hook left with sockets, in its own map.
	decides bool
}

// hooks are in the order in which they are attached and updated: whoever
// reads a claim before whoever makes it, so that no steered connect goes
// unrecorded, or to somebody else, at any moment.
func (h *Hooks) hooks() []hook {
	o := &h.objects
	return []hook{
		{"sockops", ebpf.AttachCGroupSockOps, o.SidestepSockops, false},
		{"release", ebpf.AttachCgroupInetSockRelease, o.SidestepRelease, false},
		{"gate_egress", ebpf.AttachCGroupInetEgress, o.SidestepGateEgress, false},
		{"gate_ingress", ebpf.AttachCGroupInetIngress, o.SidestepGateIngress, false},
		{"getpeername4", ebpf.AttachCgroupInet4GetPeername, o.SidestepGetpeername4, false},
		{"getpeername6", ebpf.AttachCgroupInet6GetPeername, o.SidestepGetpeername6, false},
		{"bind4", ebpf.AttachCGroupInet4Bind, o.SidestepBind4, true},
		{"bind6", ebpf.AttachCGroupInet6Bind, o.SidestepBind6, true},
		{"connect4", ebpf.AttachCGroupInet4Connect, o.SidestepConnect4, true},
		{"connect6", ebpf.AttachCGroupInet6Connect, o.SidestepConnect6, true},
	}
}

// guard comes after connect: it drops what connect has not marked.
func (h *Hooks) guard() hook {
	return hook{"egress", ebpf.AttachCGroupInetEgress, h.objects.SidestepEgress, true}
}

// Attach attaches the programs at the cgroup, as links pinned beside the
// maps: they outlive this process. Links that an earlier agent pinned at the
// same cgroup are updated in place; links of a cgroup that is gone are
// replaced. guard says whether the guard of sockets is among them; if not, one
// that an earlier agent pinned is removed. Configure must have been called.
//
// To call it again is cheap, and repairs what others have removed since:
// links, programs behind them, pins of links and of maps. While this process
// lives, the removal of a pin detaches nothing. The error is an
// *ExclusiveError where another program keeps ours out, and ErrNoBPFFS where
// there is nothing to pin to.
//
// Where programs of another layout decide, Attach attaches beside them what
// follows connections and leaves the rest to them, until Filled was called: then
// each is replaced in one step, and Active reports true.
func (h *Hooks) Attach(cgroup string, guard bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.repairs.tell(h.log)
	id, err := inode(cgroup)
	if err != nil {
		return err
	}
	hooks := h.hooks()
	if guard {
		hooks = append(hooks, h.guard())
	}
	waits, err := h.waits(id)
	if err != nil {
		return err
	}
	if waits {
		hooks = slices.DeleteFunc(hooks, func(hook hook) bool { return hook.decides })
	} else if !guard {
		if err := h.letGo(h.pin(h.guard())); err != nil {
			return fmt.Errorf("remove the guard: %w", err)
		}
	}
	var errs []error
	for _, hook := range hooks {
		if hook.decides {
			if err := h.activate(); err != nil {
				errs = append(errs, err)
				break
			}
		}
		if err := h.keep(h.cgroupPlace(cgroup, id, hook)); err != nil {
			errs = append(errs, fmt.Errorf("attach %s at %s: %w", hook.name, cgroup, err))
		}
		if h.links[h.pin(hook)] == nil {
			break // what is not attached yet waits for what comes before it
		}
	}
	return errors.Join(append(errs, h.restorePins(hooks))...)
}

// Detach ends what Attach and GuardLink keep attached: from then on
// the pins alone do, for another agent to take over.
func (h *Hooks) Detach() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, l := range h.links {
		errs = append(errs, l.Close())
	}
	clear(h.links)
	clear(h.filters)
	return errors.Join(errs...)
}

// restorePins puts back the pins of the hooks and the maps. Where one cannot be
// made the next cannot either.
func (h *Hooks) restorePins(hooks []hook) error {
	pins := slices.Clone(h.maps)
	for _, hook := range hooks {
		if l := h.links[h.pin(hook)]; l != nil {
			pins = append(pins, &l.pin)
		}
	}
	for _, p := range pins {
		if err := h.restore(p); err != nil {
			return fmt.Errorf("keep the programs attached beyond this agent: %w", err)
		}
	}
	return nil
}

func (h *Hooks) pin(hook hook) string { return filepath.Join(h.pins, "link_"+hook.name) }

func (h *Hooks) cgroupPlace(cgroup string, id uint64, hook hook) place {
	return place{
		object: hook.name, pin: h.pin(hook), program: hook.program, id: id, where: linkedCgroup, decides: hook.decides,
		attach: func() (link.Link, error) {
			l, err := link.AttachCgroup(link.CgroupOptions{
				Path: cgroup, Attach: hook.attach, Program: hook.program,
			})
			if errors.Is(err, unix.EPERM) {
				return nil, notAllowed(cgroup, hook, err)
			}
			return l, err
		},
	}
}

// linkedCgroup returns the id of the cgroup that the link is attached to, 0
// once that cgroup is gone.
func linkedCgroup(info *link.Info) (uint64, error) {
	c := info.Cgroup()
	if c == nil {
		return 0, errors.New("the pinned link is not a cgroup's")
	}
	return c.CgroupId, nil
}

// inode returns a cgroup directory's inode, which is the cgroup's id.
func inode(path string) (uint64, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return stat.Ino, nil
}

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

// ErrRootCgroup means that the agent runs in the root cgroup, where nothing of
// it is attached, since every process of the node would run it.
var ErrRootCgroup = errors.New("the agent runs in the root cgroup: the first bytes of each connection wait " +
	"until it is accepted, up to 200 ms (start it in a cgroup of its own, as a service or a pod has)")

// rootCgroupID is the id of the cgroup2 hierarchy's root.
const rootCgroupID = 1

// AttachOwn is for an agent that runs outside kubepods: it attaches what notes
// the connections of its listeners at its own cgroup. The programs at kubepods
// do so for an agent in a pod. Like Attach, it may be called again. In the root
// cgroup it attaches nothing and returns ErrRootCgroup.
func (h *Hooks) AttachOwn(cgroup string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.repairs.tell(h.log)
	id, err := inode(cgroup)
	if err != nil {
		return err
	}
	if id == rootCgroupID {
		return ErrRootCgroup
	}
	own := h.own()
	if err := h.keep(h.cgroupPlace(cgroup, id, own)); err != nil {
		return fmt.Errorf("attach %s at %s: %w", own.name, cgroup, err)
	}
	return h.restorePins([]hook{own})
}

// own is the gate at the agent's own cgroup.
func (h *Hooks) own() hook {
	return hook{"own_egress", ebpf.AttachCGroupInetEgress, h.objects.SidestepGateEgress, false}
}
