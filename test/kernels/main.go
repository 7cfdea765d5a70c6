// Command kernels runs the kernel tests, those of test/lab and test/kernel, on
// the kernel that runs and on Debian's, each of these in a guest under QEMU,
// and prints a table. It is run in the root of the repository. Its status is 0
// only if, on every kernel, every test ran and passed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	scripts = "test/kernels"
	// silence is how long a kernel may print nothing: far longer than any
	// single test takes, or a guest to boot, emulated on a busy machine.
	silence = 10 * time.Minute
)

var errSilent = fmt.Errorf("nothing was heard for %s", silence)

// debian are the guests' kernels: the release that has each as its own.
var debian = []struct{ series, release string }{
	{"6.1", "bookworm"},
	{"6.12", "trixie"},
}

// options are the flags.
type options struct {
	cache, logs string
}

func main() {
	var o options
	flag.StringVar(&o.cache, "cache", "", "where Debian's kernels are kept (required)")
	flag.StringVar(&o.logs, "logs", "out/kernels", "where the guests' consoles are written to")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.cache == "" {
		return errors.New("--cache is required")
	}
	folders, err := fetch(ctx, o.cache)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.logs, 0o755); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "sidestep-kernels-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	native, guests := filepath.Join(scratch, "native"), filepath.Join(scratch, "guests")
	if err := errors.Join(compile(ctx, runtime.GOARCH, native), compile(ctx, "amd64", guests)); err != nil {
		return err
	}
	results := []*result{attempt(ctx, "running", "suite.sh", native)}
	for _, d := range debian {
		console := filepath.Join(o.logs, d.series+".log")
		r := attempt(ctx, d.series, "guest.sh", folders[d.series], guests, console)
		if !r.ended {
			r.problem("the end of its console, " + console + ":\n" + tail(console, 40))
		}
		results = append(results, r)
	}
	if !report(os.Stdout, results) {
		return errors.New("not every test ran and passed")
	}
	return nil
}

// fetch returns the folders of Debian's kernels in the cache, by series, and
// fetches those that are missing.
func fetch(ctx context.Context, cache string) (map[string]string, error) {
	folders := map[string]string{}
	for _, d := range debian {
		cmd := exec.CommandContext(ctx, filepath.Join(scripts, "fetch.sh"), d.release, d.series, cache)
		cmd.Stderr = os.Stderr
		folder, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("fetch kernel %s: %w", d.series, err)
		}
		folders[d.series] = strings.TrimSpace(string(folder))
	}
	return folders, nil
}

// compile makes static binaries of the tests in folder, since a guest has no
// libraries, and of the agent, which some tests run.
func compile(ctx context.Context, arch, folder string) error {
	for _, args := range [][]string{
		{"test", "-c", "-o", folder + "/", "./test/lab", "./test/kernel"},
		{"build", "-o", folder + "/", "./cmd/agent"},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("compile for %s: %w", arch, err)
		}
	}
	return nil
}

// attempt runs a script that prints what suite.sh does, and ends it with all
// that it started when it falls silent.
func attempt(ctx context.Context, name, script string, args ...string) *result {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alarm := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer alarm.Stop()
	r := &result{name: name, progress: os.Stdout, heard: func() { alarm.Reset(silence) }}
	cmd := exec.CommandContext(ctx, filepath.Join(scripts, script), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stdout, cmd.Stderr = r, r
	begun := time.Now()
	err := cmd.Run()
	r.took = time.Since(begun)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		r.problem(err.Error())
	}
	r.finish()
	return r
}
