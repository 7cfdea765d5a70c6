package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// module is one that a program is built of.
type module struct {
	Path, Version string
	Dir           string // where its files are on this machine
	Sum           string // as in go.sum; empty for the main module
	Main          bool
	// Packages are the directories whose code is in the program.
	Packages []string `json:"-"`
}

// architectures are those that there are images for.
var architectures = []string{"amd64", "arm64"}

// modulesOf returns the modules that the packages are built of on Linux, on
// any of the architectures, sorted by path. The standard library is not among
// them.
func modulesOf(ctx context.Context, root string, packages ...string) ([]module, error) {
	all := map[string]module{}
	for _, arch := range architectures {
		args := append([]string{"list", "-deps", "-json=Dir,Module"}, packages...)
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0")
		var errs strings.Builder
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("go list: %w\n%s", err, &errs)
		}
		if err := addModules(all, out); err != nil {
			return nil, err
		}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b module) int { return strings.Compare(a.Path, b.Path) }), nil
}

// addModules reads the packages that go list wrote.
func addModules(all map[string]module, list []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(list))
	for {
		var p struct {
			Dir    string
			Module *module
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("go list: %w", err)
		}
		if p.Module == nil {
			continue // of the standard library
		}
		m, ok := all[p.Module.Path]
		if !ok {
			m = *p.Module
		}
		if !slices.Contains(m.Packages, p.Dir) {
			m.Packages = append(m.Packages, p.Dir)
		}
		all[m.Path] = m
	}
}
