package intercept

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ExclusiveError means that a program which others attached without
// BPF_F_ALLOW_MULTI keeps ours out: of its own cgroup and of all below it
// (hierarchy_allows_attach in the kernel's kernel/bpf/cgroup.c). One that comes
// there after ours takes nothing from ours, but ours could not be attached
// again. One below is no matter.
type ExclusiveError struct {
	Hook    string // ours that has no place
	Cgroup  string // where the program is
	Program string // its name and id
}

// Error says what to do.
func (e *ExclusiveError) Error() string {
	return fmt.Sprintf("%s is attached at %s without BPF_F_ALLOW_MULTI and keeps %s out from there down: "+
		"detach it (bpftool cgroup show %s), or have its owner attach it with that flag or as a link",
		e.Program, e.Cgroup, e.Hook, e.Cgroup)
}

// errNoCapability is why the kernel says EPERM where no program is in the way.
var errNoCapability = errors.New("CAP_NET_ADMIN is missing")

// CheckPlace returns an *ExclusiveError if the programs could not be attached at
// the cgroup. It attaches nothing; it needs CAP_NET_ADMIN.
func CheckPlace(cgroup string) error {
	for _, hook := range append((&Hooks{}).hooks(), (&Hooks{}).guard()) {
		if err := findExclusive(cgroup, hook); err != nil {
			return err
		}
	}
	return nil
}

// notAllowed says why the kernel said EPERM to an attach.
func notAllowed(cgroup string, hook hook, err error) error {
	if reason := findExclusive(cgroup, hook); reason != nil {
		return fmt.Errorf("%w: %w", err, reason)
	}
	return fmt.Errorf("%w: %w", err, errNoCapability)
}

// findExclusive returns an *ExclusiveError if a program at the cgroup or above
// keeps the hook out.
func findExclusive(cgroup string, hook hook) error {
	for dir, itself := filepath.Clean(cgroup), true; isCgroup(dir); dir, itself = filepath.Dir(dir), false {
		ids, flags, err := attachedAt(dir, hook.attach)
		if err != nil {
			return fmt.Errorf("look for programs in the way: %w", err)
		}
		multi, yields := flags&unix.BPF_F_ALLOW_MULTI != 0, flags&unix.BPF_F_ALLOW_OVERRIDE != 0
		switch {
		case itself && len(ids) > 0 && !multi, len(ids) > 0 && !multi && !yields:
			return &ExclusiveError{Hook: hook.name, Cgroup: dir, Program: nameOf(ids[0])}
		case !itself && (multi || len(ids) > 0):
			return nil // the kernel looks no further up
		}
	}
	return nil
}

func isCgroup(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}

// attachedAt returns the programs attached at the cgroup itself, 64 at most, as
// the kernel allows, and the flags with which they are. The library's query
// leaves out the flags.
func attachedAt(cgroup string, attach ebpf.AttachType) ([]ebpf.ProgramID, uint32, error) {
	dir, err := os.Open(cgroup)
	if err != nil {
		return nil, 0, err
	}
	defer dir.Close()
	var ids [64]ebpf.ProgramID
	// The query part of union bpf_attr, as far as Linux 5.15 has it.
	attr := struct {
		target, attach, query, flags uint32
		ids                          unsafe.Pointer
		count, _                     uint32
	}{target: uint32(dir.Fd()), attach: uint32(attach), ids: unsafe.Pointer(&ids), count: uint32(len(ids))}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_QUERY, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return nil, 0, os.NewSyscallError("bpf", errno)
	}
	return ids[:attr.count], attr.flags, nil
}

// nameOf names a program as bpftool does, if it may be looked at.
func nameOf(id ebpf.ProgramID) string {
	unnamed := fmt.Sprintf("program %d", id)
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return unnamed
	}
	defer program.Close()
	info, err := program.Info()
	if err != nil || info.Name == "" {
		return unnamed
	}
	return fmt.Sprintf("program %q (id %d)", info.Name, id)
}
