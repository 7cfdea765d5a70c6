package intercept

import (
	"errors"
	"fmt"
	"io/fs"
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
		{"connect4", ebpf.AttachCGroupInet4Connect, o.SidestepConnect4},
		{"connect6", ebpf.AttachCGroupInet6Connect, o.SidestepConnect6},
	}
}

// Attach puts the programs in force at the cgroup, as links pinned beside the
// maps: they outlive this process. Links that an earlier agent pinned at the
// same cgroup are updated in place; links of a cgroup that is gone are
// replaced. Configure must have been called.
func (h *Hooks) Attach(cgroup string) error {
	for _, hook := range h.hooks() {
		if err := h.attach(cgroup, hook); err != nil {
			return fmt.Errorf("attach %s at %s: %w", hook.name, cgroup, err)
		}
	}
	return nil
}

func (h *Hooks) attach(cgroup string, hook hook) error {
	pin := filepath.Join(h.pins, "link_"+hook.name)
	adopted, err := adopt(pin, cgroup, hook.program)
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
// cgroup, and removes the pin if it is attached to another or to none.
func adopt(pin, cgroup string, program *ebpf.Program) (bool, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open the pinned link: %w", err)
	}
	defer l.Close()
	at, err := linkedCgroup(l)
	if err != nil {
		return false, err
	}
	want, err := inode(cgroup)
	if err != nil {
		return false, err
	}
	if at != want {
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
