package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/sidestep-agent/sidestep/pkg/bootguard"
	"github.com/sidestep-agent/sidestep/pkg/config"
)

// The unit gets the options that install got.
func TestGuardArgumentsRepeatTheOptions(t *testing.T) {
	parse := func(args ...string) guardOptions {
		t.Helper()
		var o guardOptions
		flags := pflag.NewFlagSet("attach", pflag.ContinueOnError)
		o.addKernel(flags)
		if err := flags.Parse(args); err != nil {
			t.Fatal(err)
		}
		return o
	}
	o := parse("--listen=169.254.169.251:99", "--port-range=1-2", "--guard=off", "--kubepods-cgroup=/a b/%kubepods",
		"--cgroup-root=/a b", "--bpffs=/bpf", "--state-dir=/run/x", "--boot-config=/var/x")
	args := o.arguments()
	if len(args) < 3 || args[0] != "boot-guard" || args[1] != "attach" {
		t.Fatalf("%q", args)
	}
	if again := parse(args[2:]...); again != o {
		t.Errorf("install got %+v, the unit gets %+v", o, again)
	}
	commandFlags(t, args) // the program takes them
}

const configHead = "apiVersion: " + config.APIVersion + "\nkind: " + config.Kind + "\n"

// What is valid is installed; a ConfigMap with a mistake, and a node without
// the pods' cgroup, change nothing.
func TestGuardInstall(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	install := func(text string, args ...string) error {
		t.Helper()
		if err := os.WriteFile(path("config.yaml"), []byte(configHead+text), 0o600); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		cmd := newCommand(environment{stdout: &out, stderr: &out, getenv: func(string) string { return "" }})
		cmd.SetArgs(append([]string{
			"boot-guard", "install", "--config", path("config.yaml"), "--cgroup-root", path(""),
			"--boot-program", path("agent"), "--boot-config", path("boot.yaml"), "--unit-dir", path("units"), "--state-dir", path("state"),
		}, args...))
		return cmd.ExecuteContext(t.Context())
	}
	bad := install("mode: audt\n")
	lacking := install("")
	var mistake *config.Error
	if !errors.As(bad, &mistake) || lacking == nil || !strings.Contains(lacking.Error(), "--kubepods-cgroup") {
		t.Errorf("%v, %v", bad, lacking)
	}
	if _, err := os.Stat(path("units")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("units: %v", err)
	}
}

// A boot guard whose files are out of reach would close the node again at its
// next boot: then nothing is removed.
func TestUninstallAndTheBootGuard(t *testing.T) {
	state := bootguard.Files{StateDir: t.TempDir()}
	if err := state.NoteHeld(); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{nil, {"--check"}, {"--force"}, {"--boot-guard-only"}} {
		out, err := runUninstall(t, state.StateDir, append(args, "--unit-dir", t.TempDir()+"/none")...)
		if !errors.Is(err, bootguard.ErrOutOfReach) || out != "" {
			t.Errorf("%q: %q, %v", args, out, err)
		}
	}
	if out, err := runUninstall(t, state.StateDir, "--boot-guard-only", "--check"); !errors.Is(err, errSilent) || !strings.Contains(out, "found file") {
		t.Errorf("--check: %q, %v", out, err)
	}
	out, err := runUninstall(t, state.StateDir, "--boot-guard-only")
	if err != nil || !strings.Contains(out, "removed file "+state.StateDir) || !strings.Contains(out, "nothing of the boot guard is left") {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := runUninstall(t, state.StateDir, "--boot-guard-only", "--check"); err != nil || out != "" {
		t.Errorf("then: %q, %v", out, err)
	}
}
