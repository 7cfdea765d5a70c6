package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/test/suite"
)

// Environment variables by which the process outside tells the one inside
// where it is.
const (
	envCgroup    = "SIDESTEP_LAB_CGROUP"
	envHostNetns = "SIDESTEP_LAB_HOST_NETNS"
	envTask      = "SIDESTEP_LAB_TASK"
)

const (
	cgroupPrefix = "sidestep-lab-"
	ownCgroup    = "own"
)

// Why the lab cannot be made here.
var (
	ErrNotRoot   = errors.New("the lab needs root")
	ErrNoCgroup2 = errors.New("the lab needs a cgroup v2 mount")
)

// Main runs inside in a new lab and returns its exit status. The program
// starts itself again in mount, network and pid namespaces of its own, with a
// cgroup of its own; all of them are gone when Main returns, also when the
// program inside is killed. Tasks run here too: Main must be the first thing
// that main or TestMain does.
func Main(inside func() int) int {
	if name := os.Getenv(envTask); name != "" {
		return runTask(name)
	}
	if os.Getenv(envCgroup) != "" {
		if err := prepare(); err != nil {
			fmt.Fprintln(os.Stderr, "lab:", err)
			return 1
		}
		return inside()
	}
	code, err := enter()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	return code
}

// Suite is Main for the TestMain of a suite that make's target runs: without it
// the suite is skipped. With it, what the lab lacks is a failure.
func Suite(target string, inside func() int) int {
	if !IsTask() && !suite.Asked() {
		return suite.Skip(target)
	}
	return Main(inside)
}

// Possible returns nil if a lab can be made here, else ErrNotRoot or
// ErrNoCgroup2.
func Possible() error {
	if os.Geteuid() != 0 {
		return ErrNotRoot
	}
	_, err := cgroupMount()
	return err
}

func enter() (int, error) {
	if err := Possible(); err != nil {
		return 0, err
	}
	mount, err := cgroupMount()
	if err != nil {
		return 0, err
	}
	removeStale(mount)
	cgroup := filepath.Join(mount, cgroupPrefix+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		return 0, err
	}
	defer func() {
		if err := removeCgroups(cgroup); err != nil {
			fmt.Fprintln(os.Stderr, "lab:", err)
		}
	}()
	// Pdeathsig fires when this thread ends, not only the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	host, err := netnsInode("/proc/thread-self/ns/net")
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), envCgroup+"="+cgroup, fmt.Sprintf("%s=%d", envHostNetns, host))
	own, err := openOwnCgroup(cgroup)
	if err != nil {
		return 0, err
	}
	defer own.Close()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID,
		Pdeathsig:   syscall.SIGKILL,
		UseCgroupFD: true, CgroupFD: int(own.Fd()),
	}
	return wait(cmd)
}

// openOwnCgroup makes the cgroup of the process inside: programs that an agent
// attaches at its own must not be run by the rest of the machine.
func openOwnCgroup(cgroup string) (*os.File, error) {
	own := filepath.Join(cgroup, ownCgroup)
	if err := os.Mkdir(own, 0o755); err != nil {
		return nil, err
	}
	return os.Open(own)
}

// OwnCgroup returns the path of the cgroup that the lab's own processes are in,
// outside of all nodes' kubepods.
func OwnCgroup() string { return filepath.Join(os.Getenv(envCgroup), ownCgroup) }

// wait runs cmd and hands it the signals that would end this process, so that
// the cgroups are removed in any case.
func wait(cmd *exec.Cmd) (int, error) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-signals:
			_ = cmd.Process.Kill() // it may have ended just now
		case <-done:
		}
	}()
	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if exit.ExitCode() < 0 {
			return 1, nil
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

// prepare makes the namespaces of the process inside usable: nothing mounted
// here is seen outside, /proc is of the new pid namespace, and the loopback
// link is up. The program of its tasks is opened.
func prepare() error {
	if err := openTasks(); err != nil {
		return fmt.Errorf("%s: %w", TasksVariable, err)
	}
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if errors.Is(err, unix.EINVAL) {
		err = mountRoot()
	}
	if err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return loopbackUp()
}

// mountRoot is for a chroot into a plain directory, whose root is no mount
// that could be made private. It makes a private copy of the tree the root.
// The copy goes on top of /proc, which is a mount and so can be kept from
// propagating; a new /proc is mounted in the copy afterwards.
func mountRoot() error {
	directory, err := os.Getwd()
	if err != nil {
		return err
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("copy the tree of mounts: %w", err)
	}
	defer unix.Close(tree)
	private := &unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, private); err != nil {
		return fmt.Errorf("make the copy private: %w", err)
	}
	if err := unix.Mount("", "/proc", "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make /proc private: %w", err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, "/proc", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount the copy: %w", err)
	}
	if err := unix.Chroot("/proc"); err != nil {
		return err
	}
	return os.Chdir(directory)
}

// cgroupMount returns where cgroup v2 is mounted.
func cgroupMount() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) > 2 && fields[2] == "cgroup2" {
			return fields[1], nil
		}
	}
	return "", ErrNoCgroup2
}

// removeStale removes what a lab left whose outer process was killed.
func removeStale(mount string) {
	left, _ := filepath.Glob(filepath.Join(mount, cgroupPrefix+"*"))
	for _, cgroup := range left {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(cgroup), cgroupPrefix))
		if err == nil && unix.Kill(pid, 0) == unix.ESRCH {
			_ = removeCgroups(cgroup) // the next lab tries again
		}
	}
}
