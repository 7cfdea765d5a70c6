package cgroups

import (
	"crypto/rand"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// cgroup2 returns the cgroup2 mount and a new cgroup on it for this test
// alone, removed with all that is in it when the test ends. It skips only
// where such a cgroup cannot be had by anybody; root on a machine with cgroup
// v2 must be able to run these tests.
func cgroup2(t testing.TB) (mount, own string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes cgroups")
	}
	for _, mount = range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		var st unix.Statfs_t
		if unix.Statfs(mount, &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		own = filepath.Join(mount, "sidestep-test-"+rand.Text())
		mkdir(t, own)
		t.Cleanup(func() { removeCgroup(t, own) })
		return mount, own
	}
	t.Skip("needs cgroup v2: none is mounted at /sys/fs/cgroup or /sys/fs/cgroup/unified")
	return "", ""
}

// removeCgroup removes a cgroup and those below it, however deep. No process is
// left in them by then: start ends and reaps its own.
func removeCgroup(t testing.TB, dir string) {
	t.Helper()
	if err := removeAt(unix.AT_FDCWD, dir); err != nil {
		t.Errorf("clean up: %v", err)
	}
}

func removeAt(above int, name string) error {
	fd, err := unix.Openat(above, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(fd), name)
	defer func() { _ = dir.Close() }()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeAt(fd, e.Name()); err != nil {
				return err
			}
		}
	}
	return unix.Unlinkat(above, name, unix.AT_REMOVEDIR)
}

// mkdirDeep makes cgroups below dir, each in the one before, whose path is too
// long to be opened or read. It returns the last one, open.
func mkdirDeep(t testing.TB, dir string) *os.File {
	t.Helper()
	const depth, length = 20, 250
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for range depth {
		if err != nil {
			t.Fatal(err)
		}
		name := strings.Repeat("x", length)
		if err := unix.Mkdirat(fd, name, 0o755); err != nil {
			t.Fatal(err)
		}
		above := fd
		fd, err = unix.Openat(above, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		_ = unix.Close(above)
	}
	if err != nil {
		t.Fatal(err)
	}
	deep := os.NewFile(uintptr(fd), "deep")
	t.Cleanup(func() { _ = deep.Close() })
	return deep
}

// start runs a process in the cgroup until the test ends.
func start(t *testing.T, cgroup string) int {
	t.Helper()
	return startCommand(t, command(t, cgroup, "sleep", "60"))
}

func startCommand(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

// command returns a command whose process is born in the cgroup.
func command(t *testing.T, cgroup string, name string, args ...string) *exec.Cmd {
	t.Helper()
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	return commandIn(dir, name, args...)
}

func commandIn(cgroup *os.File, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	return cmd
}

func open(t testing.TB, mount, kubepods string) *Tree {
	t.Helper()
	tree, err := Open(mount, kubepods, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tree.Close() })
	return tree
}

func mkdir(t testing.TB, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

func id(t testing.TB, path string) uint64 {
	t.Helper()
	id, err := ID(path)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
