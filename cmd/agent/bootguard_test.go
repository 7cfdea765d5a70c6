package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// What is kept for the boot guard is read by it, and is what it obeys.
func TestBootSettings(t *testing.T) {
	for _, fields := range []string{
		"", "mode: audit\n", "unknown: pass\n", "unknownHostNetwork: hold\nwireServer: deny\n",
		"exceptions:\n- namespaces: [a]\nscope: {namespaces: [b]}\nunlabeled: deny\n",
	} {
		c, err := config.Parse([]byte(configHead + fields))
		if err != nil {
			t.Fatal(err)
		}
		kept, err := bootSettings(c)
		if err != nil {
			t.Fatal(err)
		}
		read, err := config.Parse(kept)
		if err != nil {
			t.Fatalf("%v in %s", err, kept)
		}
		var f kernelFlags
		f.add(pflag.NewFlagSet("", pflag.ContinueOnError))
		if agent, guard := f.settings(c, 1, 2), f.settings(read, 1, 2); agent != guard {
			t.Errorf("%q: the agent tells the kernel %+v, the boot guard %+v", fields, agent, guard)
		}
	}
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

// After each change the file is as the configuration is, also after one that
// could not be written.
func TestKeepBootConfig(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sidestep")
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // in the directory's place
		t.Fatal(err)
	}
	c := config.Default()
	a := &agent{log: slog.New(slog.DiscardHandler), options: runOptions{bootConfig: filepath.Join(dir, "boot.yaml")}}
	a.settings = &settings{config: c, changed: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.keepBootConfig(ctx) }()
	await := func(what string, so func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !so(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("after 30 s not so: %s", what)
			}
		}
	}
	await("a problem is reported", func() bool { _, problems := a.bootGuard(); return len(problems) == 1 })
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []config.Mode{config.ModeAudit, config.ModeEnforce} {
		changed := *c
		changed.Mode = mode
		a.settings.mu.Lock()
		a.settings.config = &changed
		a.settings.mu.Unlock()
		a.settings.changed <- struct{}{}
		await(string(mode)+" is kept", func() bool {
			kept, err := config.Load(a.options.bootConfig)
			return err == nil && kept.Mode == mode
		})
	}
	await("no problem is reported", func() bool { _, problems := a.bootGuard(); return len(problems) == 0 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestStatusOfTheBootGuard(t *testing.T) {
	installed := bootguard.Files{StateDir: t.TempDir()}
	held := bootguard.Files{StateDir: t.TempDir()}
	if err := errors.Join(held.NoteHeld(), os.WriteFile(filepath.Join(installed.StateDir, "boot-guard"), []byte(bootguard.Installed), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		stateDir, bootConfig string
		says                 string
		problems             int
	}{
		{t.TempDir(), "", "", 0},
		{t.TempDir(), "/x", "has not held", 0},
		{installed.StateDir, "/x", "has not held", 0},
		{held.StateDir, "/x", "held at this boot", 0},
		{held.StateDir, "", "held at this boot", 1},
	} {
		a := &agent{options: runOptions{stateDir: tt.stateDir, bootConfig: tt.bootConfig}}
		says, problems := a.bootGuard()
		if !strings.HasPrefix(says, tt.says) || (says == "") != (tt.says == "") || len(problems) != tt.problems {
			t.Errorf("%+v: %q, %q", tt, says, problems)
		}
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
