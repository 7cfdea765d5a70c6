package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// builder stands in for the engine that would run the stages before the last.
type builder struct {
	root    string // the repository
	scratch string // an empty directory for what is built
	arch    string
	version string
}

// file is one file of the image's layer.
type file struct {
	path string // absolute
	mode int64  // permissions
	data []byte
}

// files returns the image's files, sorted by path.
func (img *image) files(ctx context.Context, b builder) ([]file, error) {
	var files []file
	for _, c := range img.copies {
		local, err := b.locate(ctx, c)
		if err != nil {
			return nil, err
		}
		data, err := os.ReadFile(local)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.source, err)
		}
		info, err := os.Stat(local)
		if err != nil {
			return nil, err
		}
		files = append(files, file{path: c.target, mode: mode(info), data: data})
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	return files, nil
}

// mode does not depend on the umask that the file was made with.
func mode(info os.FileInfo) int64 {
	if info.Mode()&0o100 != 0 {
		return 0o755
	}
	return 0o644
}

// locate returns where on this machine the file is that the COPY takes: made by
// the stage's command that names it, or, if none does, a file that the stage's
// base image has and this machine has at the same place.
func (b builder) locate(ctx context.Context, c copied) (string, error) {
	for _, in := range c.from.instructions {
		if in.keyword == "RUN" && slices.Contains(strings.Fields(in.args), c.source) {
			return b.run(ctx, in, c.source)
		}
	}
	return c.source, nil
}

// run runs the command in the repository, which is the stage's working
// directory as far as .dockerignore lets the build see it.
func (b builder) run(ctx context.Context, in instruction, target string) (string, error) {
	local := filepath.Join(b.scratch, path.Base(target))
	words := strings.Fields(in.args)
	cmd := exec.CommandContext(ctx, "sh", "-euc", strings.ReplaceAll(in.args, target, "'"+local+"'"))
	cmd.Dir = b.root
	cmd.Env = append(os.Environ(), "TARGETARCH="+b.arch, "VERSION="+b.version)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("line %d: RUN %s…: %w", in.line, words[0], err)
	}
	return local, nil
}
