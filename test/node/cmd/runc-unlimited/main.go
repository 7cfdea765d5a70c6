// Command runc-unlimited is an OCI runtime for a node whose cgroup2 mount lacks
// controllers, as on machines where cgroup v1 holds them: runc refuses to start
// a container whose limits it cannot set. It takes those limits out of the
// bundle's config.json and then becomes runc. Where every controller is there
// it changes nothing.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const controllersFile = "/sys/fs/cgroup/cgroup.controllers"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "runc-unlimited:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	present, err := os.ReadFile(controllersFile)
	if err != nil {
		return err
	}
	controllers := strings.Fields(string(present))
	switch {
	case slices.Contains(args, "create"), slices.Contains(args, "run"):
		if err := unlimitBundle(bundle(args), controllers); err != nil {
			return err
		}
	case slices.Contains(args, "update") && !slices.Contains(controllers, "cpu"):
		// Nothing to update; the new limits come on standard input.
		return nil
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		return err
	}
	return unix.Exec(runc, append([]string{runc}, args...), os.Environ())
}

// bundle returns the bundle's directory, the working directory unless named.
func bundle(args []string) string {
	for i, arg := range args {
		if value, ok := strings.CutPrefix(arg, "--bundle="); ok {
			return value
		}
		if (arg == "--bundle" || arg == "-b") && i+1 < len(args) {
			return args[i+1]
		}
	}
	return "."
}

func unlimitBundle(dir string, controllers []string) error {
	name := filepath.Join(dir, "config.json")
	config, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if config, err = unlimit(config, controllers); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return os.WriteFile(name, config, 0o600)
}
