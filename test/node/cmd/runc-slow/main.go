// Command runc-slow is an OCI runtime for tests: the one that it finds as
// runc-unlimited, made slow. Before each container it keeps a process for two
// seconds in the container's cgroup and in the node's namespaces, where runc
// has one for some milliseconds before it enters the pod's.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	runtime = "runc-unlimited"
	pause   = 2 * time.Second
	cgroups = "/sys/fs/cgroup"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "runc-slow:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if i := slices.Index(args, "--bundle"); i >= 0 && i+1 < len(args) && slices.Contains(args, "create") {
		if err := linger(args[i+1]); err != nil {
			return err
		}
	}
	path, err := exec.LookPath(runtime)
	if err != nil {
		return err
	}
	return unix.Exec(path, append([]string{path}, args...), os.Environ())
}

// linger keeps a process in the cgroup of the bundle's container.
func linger(bundle string) error {
	cgroup, err := cgroupOf(bundle)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cgroup, 0o755); err != nil {
		return err
	}
	dir, err := os.Open(cgroup)
	if err != nil {
		return err
	}
	defer dir.Close()
	// runc wants the cgroup to be empty: the process is killed after the pause.
	ctx, cancel := context.WithTimeout(context.Background(), pause)
	defer cancel()
	sleeper := exec.CommandContext(ctx, "sleep", "60")
	sleeper.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if err := sleeper.Run(); ctx.Err() == nil {
		return fmt.Errorf("sleep ended before its time: %w", err)
	}
	return nil
}

func cgroupOf(bundle string) (string, error) {
	text, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return "", err
	}
	var config struct {
		Linux struct {
			CgroupsPath string `json:"cgroupsPath"`
		} `json:"linux"`
	}
	if err := json.Unmarshal(text, &config); err != nil {
		return "", fmt.Errorf("%s/config.json: %w", bundle, err)
	}
	if config.Linux.CgroupsPath == "" {
		return "", fmt.Errorf("%s/config.json names no cgroup", bundle)
	}
	return filepath.Join(cgroups, config.Linux.CgroupsPath), nil
}
