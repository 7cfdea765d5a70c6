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
