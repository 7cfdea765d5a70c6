package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const module = "github.com/sidestep-agent/sidestep/"

// listing is what `go list` says of a package: its path, its folder, its files
// and what its tests import.
const listing = "{{.ImportPath}}|{{.Dir}}|{{join .GoFiles \" \"}} {{join .TestGoFiles \" \"}} {{join .XTestGoFiles \" \"}}|" +
	"{{join .TestImports \" \"}} {{join .XTestImports \" \"}}|{{len .TestGoFiles}} {{len .XTestGoFiles}}"

// unitSuites returns the packages of the root's module with unit tests that
// start goroutines or change threads.
func unitSuites(ctx context.Context) ([]*suite, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-f", listing, "./...")
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list the packages: %w", err)
	}
	var all []*suite
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		fields := strings.Split(lines.Text(), "|")
		name := strings.TrimPrefix(fields[0], module)
		imports := strings.Fields(fields[3])
		// The suites in a lab or on the node are listed by themselves.
		if fields[4] == "0 0" || name == "test/lab" || slices.Contains(imports, module+"test/lab") || strings.HasPrefix(name, "test/node/e2e") {
			continue
		}
		concurrent, err := startsGoroutines(fields[1], strings.Fields(fields[2]))
		if err != nil {
			return nil, err
		}
		if concurrent {
			all = append(all, &suite{name: name, dir: name, rounds: unitRounds, test: true, args: []string{"-test.timeout=10m"}})
		}
	}
	return all, nil
}

// startsGoroutines reports whether the files have go statements, calls of a
// method Go (errgroup, sync.WaitGroup), servers, or a goroutine that is locked to
// its thread.
func startsGoroutines(dir string, names []string) (found bool, err error) {
	for _, name := range names {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return false, err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				found = true
			case *ast.SelectorExpr:
				found = found || slices.Contains([]string{"Go", "NewServer", "NewTLSServer", "AfterFunc", "LockOSThread"}, n.Sel.Name)
			}
			return !found
		})
		if found {
			break
		}
	}
	return found, nil
}
