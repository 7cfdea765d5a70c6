package bootguard

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// options are those of a host in a temporary directory.
func options(t *testing.T) Options {
	t.Helper()
	self := filepath.Join(t.TempDir(), "agent")
	check(t, os.WriteFile(self, []byte("program 1"), 0o755))
	return Options{
		Files: Files{
			Program: DefaultProgram, Config: DefaultConfig, UnitDir: DefaultUnitDir,
			KubeletUnit: DefaultKubeletUnit, StateDir: "/run/sidestep", Root: t.TempDir(),
		},
		Self: self, Settings: []byte("mode: enforce\n"),
		Arguments: []string{"boot-guard", "attach"}, Capabilities: []string{"CAP_BPF"}, CgroupRoot: "/sys/fs/cgroup", BPFFS: "/sys/fs/bpf",
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree returns what is below the root: modes, and what files and links say.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	check(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		var says []byte
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(path)
			all[strings.TrimPrefix(path, root)] = "-> " + target
			return err
		}
		says, err = os.ReadFile(path)
		first, _, _ := strings.Cut(string(says), "\n")
		all[strings.TrimPrefix(path, root)] = info.Mode().String() + " " + first
		return err
	}))
	return all
}

func TestInstall(t *testing.T) {
	o := options(t)
	check(t, Install(o))
	want := map[string]string{
		"/opt/sidestep/agent":                                                   "-rwxr-xr-x program 1",
		"/var/lib/sidestep/boot.yaml":                                           "-rw------- mode: enforce",
		"/etc/systemd/system/sidestep-boot-guard.service":                       "-rw-r--r-- # Written by the container boot-guard of the DaemonSet sidestep-agent, and",
		"/etc/systemd/system/kubelet.service.wants/sidestep-boot-guard.service": "-> /etc/systemd/system/sidestep-boot-guard.service",
		"/run/sidestep/boot-guard":                                              "-rw------- installed",
	}
	if diff := cmp.Diff(want, tree(t, o.Root)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A second time nothing is written; another version replaces the first.
func TestInstallAgain(t *testing.T) {
	o := options(t)
	check(t, Install(o))
	before := inodes(t, o)
	check(t, Install(o))
	if diff := cmp.Diff(before, inodes(t, o)); diff != "" {
		t.Errorf("the same installed again wrote:\n%s", diff)
	}
	check(t, o.NoteHeld())
	check(t, os.WriteFile(o.Self, []byte("program 2"), 0o755))
	o.Arguments = append(o.Arguments, "--guard", "off")
	check(t, os.Chmod(o.at(o.Config), 0o644))
	check(t, Install(o))
	got := tree(t, o.Root)
	for path, want := range map[string]string{
		"/opt/sidestep/agent": "-rwxr-xr-x program 2", "/var/lib/sidestep/boot.yaml": "-rw------- mode: enforce",
		"/run/sidestep/boot-guard": "-rw------- held",
	} {
		if got[path] != want {
			t.Errorf("%s is %q, want %q", path, got[path], want)
		}
	}
	unit, err := os.ReadFile(o.at(o.unit()))
	check(t, err)
	if !strings.Contains(string(unit), `"--guard" "off"`) {
		t.Errorf("the unit is the old one:\n%s", unit)
	}
}

// inodes tells files from ones that were rewritten.
func inodes(t *testing.T, o Options) map[string]uint64 {
	t.Helper()
	all := map[string]uint64{}
	for path := range tree(t, o.Root) {
		info, err := os.Lstat(filepath.Join(o.Root, path))
		check(t, err)
		all[path] = inode(info)
	}
	return all
}

// What cannot be installed as a whole is not enabled.
func TestInstallFails(t *testing.T) {
	for name, spoil := range map[string]func(*testing.T, *Options){
		"no program":                   func(_ *testing.T, o *Options) { o.Self += "-gone" },
		"state that outlives a boot":   func(_ *testing.T, o *Options) { o.StateDir = "/var/sidestep" },
		"a path that splits":           func(_ *testing.T, o *Options) { o.Program = "/opt/side step/agent" },
		"a path with a specifier":      func(_ *testing.T, o *Options) { o.Config = "/var/%H/boot.yaml" },
		"no path":                      func(_ *testing.T, o *Options) { o.Program = "" },
		"a kubelet's unit with a path": func(_ *testing.T, o *Options) { o.KubeletUnit = "a b.service" },
		"a directory in the program's place": func(t *testing.T, o *Options) {
			check(t, os.MkdirAll(filepath.Join(o.at(o.Program), "x"), 0o755))
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			link := o.at(o.link())
			spoil(t, &o)
			if err := Install(o); err == nil {
				t.Error("no error")
			}
			if _, err := os.Lstat(link); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the unit is enabled: %v", err)
			}
			for path := range tree(t, o.Root) {
				if strings.Contains(path, scratchPrefix) {
					t.Errorf("left: %s", path)
				}
			}
		})
	}
}

func TestUnit(t *testing.T) {
	o := options(t)
	o.Capabilities = []string{"CAP_BPF", "CAP_NET_ADMIN"}
	o.Arguments = []string{"attach", "--x", `50% of "$HOME"\`}
	o.KubeletUnit = "k3s.service"
	text, err := unitFile(o)
	check(t, err)
	lines := strings.Split(string(text), "\n")
	for _, want := range []string{
		"Before=k3s.service",
		"RequiresMountsFor=/opt/sidestep /var/lib/sidestep",
		`ExecStart=/opt/sidestep/agent "attach" "--x" "50%% of \"$$HOME\"\\"`,
		"CapabilityBoundingSet=CAP_BPF CAP_NET_ADMIN",
		"RuntimeDirectory=sidestep",
		"ReadWritePaths=/sys/fs/cgroup /sys/fs/bpf",
		"WantedBy=k3s.service",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %q in:\n%s", want, text)
		}
	}
}

func TestState(t *testing.T) {
	f := options(t).Files
	for _, step := range []struct {
		do   func() error
		want State
	}{
		{func() error { return nil }, Absent},
		{f.noteInstalled, Installed},
		{f.NoteHeld, Held},
		{f.noteInstalled, Held},
		{func() error { return os.WriteFile(f.at(f.marker()), []byte("of a later version"), 0o600) }, Installed},
	} {
		check(t, step.do())
		if got, err := f.Current(); got != step.want || err != nil {
			t.Errorf("%q, %v, want %q", got, err, step.want)
		}
	}
}
