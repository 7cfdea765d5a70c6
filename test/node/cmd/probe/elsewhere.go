package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// again becomes probe with other arguments. What the calling thread has
// changed about itself holds for the new program.
func again(args []string) error {
	return unix.Exec("/proc/self/exe", append(os.Args[:1:1], args...), os.Environ())
}

// apart becomes the command in a network namespace of its own, in which
// nothing is up.
func apart(command []string) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	return again(command)
}

func join(file string, command []string) error {
	ns, err := os.Open(file)
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("setns", err)
	}
	return again(command)
}

// below becomes the command in a child of the cgroup that it is in, which it
// may make if the container's cgroup mount can be written.
func below(name string, command []string) error {
	const mount = "/sys/fs/cgroup"
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	// Other lines are of cgroup v1.
	_, line, ok := strings.Cut("\n"+string(own), "\n0::")
	if !ok {
		return fmt.Errorf("no cgroup v2 in /proc/self/cgroup: %q", own)
	}
	path, _, _ := strings.Cut(line, "\n")
	child := filepath.Join(mount, path, name)
	if err := os.MkdirAll(child, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(child, "cgroup.procs"), []byte("0"), 0); err != nil {
		return err
	}
	return again(command)
}
