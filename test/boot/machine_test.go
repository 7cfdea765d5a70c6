package boot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/test/lab"
)

const (
	systemd = "/usr/lib/systemd/systemd"
	units   = "/etc/systemd/system"
)

// machine is what is not of this machine in one that systemd boots in
// namespaces: its root, with a directory for results, and programs.
type machine struct {
	Root    string
	Agent   string   // the program, at /agent in there
	Task    string   // this program, at /task, for units that run its tasks
	Prepare []string // a command line that is run before it boots
}

func init() { lab.Register("boot", boot) }

// boot makes the machine out of the new namespaces that its process is in, and
// becomes its systemd.
func boot(m machine) (none struct{}, err error) {
	// What follows is about this thread, and so about what it executes.
	runtime.LockOSThread()
	// The machine's cgroup, in which the process is, is the root in there.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return none, fmt.Errorf("unshare the cgroup namespace: %w", err)
	}
	if err := errors.Join(m.mount(), enter(m.Root)); err != nil {
		return none, err
	}
	// What a container's init is not given: this machine's clock, modules, power.
	for _, capability := range []uintptr{unix.CAP_SYS_TIME, unix.CAP_SYS_MODULE, unix.CAP_SYS_BOOT, unix.CAP_SYS_RAWIO} {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil {
			return none, fmt.Errorf("drop capability %d: %w", capability, err)
		}
	}
	if _, err := run("/bin/sh", "-euc", strings.Join(m.Prepare, "\n")); err != nil {
		return none, err
	}
	return none, unix.Exec(systemd, []string{systemd, "--unit=boot.target", "--log-target=null"}, []string{
		"PATH=/usr/sbin:/usr/bin", "container=lab", "SYSTEMD_UNIT_PATH=" + units,
		"SYSTEMD_GENERATOR_PATH=/none", "SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/none",
	})
}

// mount makes the machine's file systems. Of this machine it has /usr, which it
// cannot write to, and some devices; nor can it write this one's sysctls.
func (m machine) mount() error {
	const bind, readOnly = unix.MS_BIND, unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY
	mounts := []struct {
		source, target, kind string
		flags                uintptr
	}{
		{m.Root, "", "", bind}, // pivot_root wants a mount
		{"/usr", "usr", "", bind},
		{"", "usr", "", readOnly},
		{m.Agent, "agent", "", bind},
		{m.Task, "task", "", bind},
		{"proc", "proc", "proc", 0},
		{filepath.Join(m.Root, "proc/sys"), "proc/sys", "", bind},
		{"", "proc/sys", "", readOnly},
		{"sysfs", "sys", "sysfs", unix.MS_RDONLY},
		{"cgroup2", "sys/fs/cgroup", "cgroup2", 0},
		{"bpf", "sys/fs/bpf", "bpf", 0},
		{"/dev/null", "dev/null", "", bind},
		{"/dev/urandom", "dev/urandom", "", bind},
	}
	for _, mount := range mounts {
		if err := unix.Mount(mount.source, filepath.Join(m.Root, mount.target), mount.kind, mount.flags, ""); err != nil {
			return fmt.Errorf("mount /%s: %w", mount.target, err)
		}
	}
	return nil
}

// enter makes the directory the root of this mount namespace.
func enter(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	// pivot_root(2): the old root comes to lie on the new one, and goes.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	return errors.Join(unix.Unmount(".", unix.MNT_DETACH), os.Chdir("/"))
}

// files lays out the root: for each path what is in the file, or "-> " and
// where the link leads, or nothing for a directory.
func (m machine) files(t *testing.T, files map[string]string) {
	t.Helper()
	for path, text := range files {
		path = filepath.Join(m.Root, path)
		check(t, os.MkdirAll(filepath.Dir(path), 0o755))
		target, link := strings.CutPrefix(text, "-> ")
		switch {
		case link:
			check(t, os.Symlink(target, path))
		case text == "":
			check(t, os.MkdirAll(path, 0o755))
		default:
			check(t, os.WriteFile(path, []byte(text), 0o644))
		}
	}
}

// skeleton is in every machine. There is no journal in it.
var skeleton = map[string]string{
	"bin": "-> usr/bin", "sbin": "-> usr/sbin", "lib": "-> usr/lib", "lib64": "-> usr/lib64",
	"usr": "", "proc": "", "sys": "", "run": "", "tmp": "", "opt": "", "var/lib": "", "results": "",
	"dev/null": "\n", "dev/urandom": "\n", "agent": "\n", "task": "\n",
	"etc/machine-id": "0123456789abcdef0123456789abcdef\n", "etc/passwd": "root:x:0:0:root:/:/bin/sh\n",
	units + "/sysinit.target":  "[Unit]\nDefaultDependencies=no\n",
	units + "/basic.target":    "[Unit]\nDefaultDependencies=no\n",
	units + "/shutdown.target": "[Unit]\nDefaultDependencies=no\n",
}

// task returns a unit's lines that run a task of this program, and write what
// it returns to a file of the task's name.
func task(name string) string {
	text := "ExecStart=/task\nStandardInputText={}\nStandardInput=data\nStandardOutput=file:/results/" + name + "\n"
	for _, variable := range lab.TaskEnvironment(name) {
		text += "Environment=" + variable + "\n"
	}
	return text
}

// start boots the machine in a cgroup. It ends with the test; what is returned
// is closed if it ends before.
func (m machine) start(t *testing.T, cgroup string) (ended chan struct{}) {
	t.Helper()
	check(t, os.Mkdir(cgroup, 0o755))
	dir, err := os.Open(cgroup)
	check(t, err)
	defer dir.Close()
	input, err := json.Marshal(m)
	check(t, err)
	var says bytes.Buffer
	cmd := exec.CommandContext(t.Context(), lab.Program())
	cmd.Env = lab.TaskEnvironment("boot")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &says, &says
	cmd.SysProcAttr = &syscall.SysProcAttr{
		UseCgroupFD: true, CgroupFD: int(dir.Fd()),
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	check(t, cmd.Start())
	ended = make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill() // the first process of its namespace: all end with it
		<-ended
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(m.Root, "results/log"))
			t.Logf("%s%s", &says, log)
		}
	})
	return ended
}

// result waits until the task of the name has returned.
func result[T any](t *testing.T, m machine, ended chan struct{}, name string) (all T) {
	t.Helper()
	deadline, tick := time.After(time.Minute), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(filepath.Join(m.Root, "results", name))
		if err == nil && bytes.HasSuffix(text, []byte("\n")) {
			check(t, json.Unmarshal(text, &all))
			return all
		}
		select {
		case <-tick.C:
		case <-ended:
			t.Fatal("the machine has ended")
		case <-deadline:
			t.Fatalf("%s has not come to its end: %v", name, err)
		}
	}
}
