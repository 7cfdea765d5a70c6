package intercept

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

type hook struct {
	name    string
	attach  ebpf.AttachType
	program *ebpf.Program
}

// hooks are in the order in which they are attached and updated: whoever
// reads a claim before whoever makes it, so that no steered connect goes
// unrecorded at any moment.
func (h *Hooks) hooks() []hook {
	o := &h.objects
	return []hook{
		{"sockops", ebpf.AttachCGroupSockOps, o.SidestepSockops},
		{"getpeername4", ebpf.AttachCgroupInet4GetPeername, o.SidestepGetpeername4},
		{"getpeername6", ebpf.AttachCgroupInet6GetPeername, o.SidestepGetpeername6},
		{"bind4", ebpf.AttachCGroupInet4Bind, o.SidestepBind4},
		{"bind6", ebpf.AttachCGroupInet6Bind, o.SidestepBind6},
		{"connect4", ebpf.AttachCGroupInet4Connect, o.SidestepConnect4},
		{"connect6", ebpf.AttachCGroupInet6Connect, o.SidestepConnect6},
	}
}

// guard comes after connect: it drops what connect has not marked.
func (h *Hooks) guard() hook {
	return hook{"egress", ebpf.AttachCGroupInetEgress, h.objects.SidestepEgress}
}

// Attach puts the programs in force at the cgroup, as links pinned beside the
// maps: they outlive this process. Links that an earlier agent pinned at the
// same cgroup are updated in place; links of a cgroup that is gone are
// replaced. guard says whether the guard of sockets is among them; if not, one
// that an earlier agent pinned is taken away. Configure must have been called.
func (h *Hooks) Attach(cgroup string, guard bool) error {
	hooks := h.hooks()
	if guard {
		hooks = append(hooks, h.guard())
	} else if err := unpin(h.pin(h.guard())); err != nil {
		return fmt.Errorf("take away the guard: %w", err)
	}
	for _, hook := range hooks {
		if err := h.attach(cgroup, hook); err != nil {
			return fmt.Errorf("attach %s at %s: %w", hook.name, cgroup, err)
		}
	}
	return nil
}

func (h *Hooks) pin(hook hook) string { return filepath.Join(h.pins, "link_"+hook.name) }

// unpin removes a pin, and with it what is attached. To remove what is not
// there is no error.
func unpin(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (h *Hooks) attach(cgroup string, hook hook) error {
	want, err := inode(cgroup)
	if err != nil {
		return err
	}
	pin := h.pin(hook)
	adopted, err := adopt(pin, hook.program, func(l link.Link) (bool, error) {
		at, err := linkedCgroup(l)
		return at == want, err
	})
	if err != nil || adopted {
		return err
	}
	l, err := link.AttachCgroup(link.CgroupOptions{
		Path: cgroup, Attach: hook.attach, Program: hook.program,
	})
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w (a program attached to a parent cgroup without BPF_F_ALLOW_MULTI does this, as does a missing CAP_NET_ADMIN)", err)
	}
	if err != nil {
		return err
	}
	// The pin, not this descriptor, keeps the program in force.
	return errors.Join(l.Pin(pin), l.Close())
}

// adopt puts the program behind the pinned link if that is attached to the
// right place, and removes the pin if it is attached to another or to none.
func adopt(pin string, program *ebpf.Program, right func(link.Link) (bool, error)) (bool, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open the pinned link: %w", err)
	}
	defer l.Close()
	ok, err := right(l)
	if err != nil {
		return false, err
	}
	if !ok {
		return false, l.Unpin()
	}
	return true, l.Update(program)
}

// linkedCgroup returns the id of the cgroup that the link is attached to, 0
// once that cgroup is gone.
func linkedCgroup(l link.Link) (uint64, error) {
	info, err := l.Info()
	if err != nil {
		return 0, fmt.Errorf("read the pinned link: %w", err)
	}
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
