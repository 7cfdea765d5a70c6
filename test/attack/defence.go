package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// defence is one thing in the sources that stands in an attack's way, and how
// to take it out of them.
type defence struct {
	name  string
	edits []edit
	agent bool // some attack on it needs the agent's own program
}

// edit replaces the one place in a file where a text stands.
type edit struct{ file, old, new string }

// overlay writes the changed sources below dir, compiles the BPF programs if
// they are among them, and returns a file for go's -overlay. The tree itself
// is left alone.
func (d *defence) overlay(ctx context.Context, dir string) (string, error) {
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	if err := os.CopyFS(filepath.Join(dir, "bpf"), os.DirFS("bpf")); err != nil {
		return "", err
	}
	replace := map[string]string{}
	for _, e := range d.edits {
		if err := e.apply(dir); err != nil {
			return "", err
		}
		if !strings.HasPrefix(e.file, "bpf/") {
			replace[filepath.Join(here, e.file)] = filepath.Join(dir, e.file)
			continue
		}
		object := filepath.Join("pkg/intercept", "kernel_"+bpfArch()+"_bpfel.o")
		replace[filepath.Join(here, object)] = filepath.Join(dir, "kernel.o")
	}
	if err := compile(ctx, dir); err != nil {
		return "", err
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, text, 0o600)
}

// apply changes the file's copy below dir, which may have been changed before.
func (e edit) apply(dir string) error {
	path := filepath.Join(dir, e.file)
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		text, err = os.ReadFile(e.file)
	}
	if err != nil {
		return err
	}
	if n := strings.Count(string(text), e.old); n != 1 {
		return fmt.Errorf("%s has %d places that read\n%s\nwant one: adapt the suite to the sources", e.file, n, e.old)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(strings.Replace(string(text), e.old, e.new, 1)), 0o600)
}

func compile(ctx context.Context, dir string) error {
	clang := "clang-" + os.Getenv("CLANG_VERSION")
	object := filepath.Join(dir, "kernel.o")
	out, err := exec.CommandContext(ctx, clang, "-target", "bpfel", "-O2", "-mcpu=v3", "-g",
		"-isystem", "/usr/include/x86_64-linux-gnu", "-isystem", "/usr/include/aarch64-linux-gnu",
		"-c", filepath.Join(dir, "bpf/sidestep.c"), "-o", object).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", clang, err, out)
	}
	return nil
}

// bpfArch is the architecture as bpf2go names it.
func bpfArch() string {
	if runtime.GOARCH == "amd64" {
		return "x86"
	}
	return runtime.GOARCH
}
