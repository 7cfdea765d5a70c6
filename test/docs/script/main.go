// Command script prints the command blocks that stand below a heading of a
// page as one script of bash, which ends at the first command that fails:
//
//	go run ./test/docs/script README.md 'Quickstart without a cloud'
//
// Before each block it says which it is.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/sidestep-agent/sidestep/test/docs/blocks"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "script:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: script PAGE HEADING")
	}
	all, err := blocks.On(".", args[0])
	if err != nil {
		return err
	}
	found := false
	fmt.Println("set -euo pipefail")
	for _, b := range all {
		if b.Section == args[1] && b.Needs == "" {
			found = true
			fmt.Printf("echo '== %s'\n%s", b, b.Text)
		}
	}
	if !found {
		return fmt.Errorf("%s has no commands below %q", args[0], args[1])
	}
	return nil
}
