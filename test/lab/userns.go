package lab

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// firstUser is the node's user that is root in a pod's user namespace; 65,536
// follow, as the kubelet maps them.
const firstUser, users = 100000, 65536

// ownUserNamespace has a process start in a user namespace of its own.
func ownUserNamespace(a *syscall.SysProcAttr) {
	mapping := []syscall.SysProcIDMap{{ContainerID: 0, HostID: firstUser, Size: users}}
	a.Cloneflags |= unix.CLONE_NEWUSER
	a.UidMappings, a.GidMappings = mapping, mapping
}

// enterUserNamespace has cmd, which is not started yet, run in the user
// namespace at path, as its root. It goes by nsenter, since a Go program has
// threads, and those cannot enter one. before is a command that runs it there,
// and may be empty. The caller closes the file after the start.
func enterUserNamespace(cmd *exec.Cmd, path string, before []string) (*os.File, error) {
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return nil, err
	}
	// By a descriptor, since the folder that it is in may be closed to the
	// namespace's users.
	program, err := os.Open(cmd.Path)
	if err != nil {
		return nil, err
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, program)
	number := 2 + len(cmd.ExtraFiles) // after the three standard ones
	cmd.Args = slices.Concat([]string{nsenter, "--user=" + path, "--"}, before,
		[]string{fmt.Sprintf("/proc/self/fd/%d", number)}, cmd.Args[1:])
	cmd.Path = nsenter
	return program, nil
}
