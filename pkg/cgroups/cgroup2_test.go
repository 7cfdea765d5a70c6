package cgroups

import (
	"crypto/rand"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
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

// removeCgroup removes a cgroup and those below it. No process is left in them
// by then: start ends and reaps its own.
func removeCgroup(t testing.TB, dir string) {
	t.Helper()
	names, err := subdirs(dir)
	if err != nil {
		t.Errorf("clean up: %v", err)
	}
	for _, name := range names {
		removeCgroup(t, filepath.Join(dir, name))
	}
	if err := unix.Rmdir(dir); err != nil {
		t.Errorf("clean up: rmdir %s: %v", dir, err)
	}
}

// start runs a process in the cgroup until the test ends.
func start(t *testing.T, cgroup string) int {
	t.Helper()
	cmd := command(t, cgroup, "sleep", "60")
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
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
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
