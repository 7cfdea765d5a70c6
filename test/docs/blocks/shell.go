package blocks

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Shell is a bash in which the blocks of a page run one after the other, so
// that a variable which one sets is known to the next.
type Shell struct {
	dir    string
	cmd    *exec.Cmd
	in     io.WriteCloser
	status *bufio.Scanner
}

// Start begins a shell. The command is to become a bash that reads its script
// from standard input; dir is a folder that it can see by the same name, for
// the blocks and what they print. The caller closes the shell.
func Start(dir string, cmd *exec.Cmd) (*Shell, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &Shell{dir: dir, cmd: cmd, in: in, status: bufio.NewScanner(out)}, nil
}

// StartHere begins a shell on the machine, in directory in, with variables
// added to the environment. It ends with the context.
func StartHere(ctx context.Context, dir, in string, variables ...string) (*Shell, error) {
	cmd := exec.CommandContext(ctx, "bash")
	cmd.Dir, cmd.Env = in, append(os.Environ(), variables...)
	return Start(dir, cmd)
}

// Run runs a block as it stands and returns what it printed, on both standard
// outputs. Its first command that fails ends it, and is an error.
func (s *Shell) Run(b Block) (string, error) {
	script, printed := filepath.Join(s.dir, "block.sh"), filepath.Join(s.dir, "printed")
	if err := os.WriteFile(script, []byte("set -euo pipefail\n"+b.Text), 0o600); err != nil {
		return "", err
	}
	// Its own subshell would keep its variables to itself: the shell goes on
	// only if it succeeds, and tells of its end either way.
	if _, err := fmt.Fprintf(s.in, "exec 9>&1; trap 'echo $? >&9' EXIT\n. %q </dev/null >%q 2>&1\necho 0 >&9\n", script, printed); err != nil {
		return "", fmt.Errorf("%s: %w", b, err)
	}
	status := "lost: the shell has ended"
	if s.status.Scan() {
		status = s.status.Text()
	}
	out, err := os.ReadFile(printed)
	if err == nil && status != "0" {
		err = fmt.Errorf("%s: status %s:\n%s\nof\n%s", b, status, out, strings.TrimSpace(b.Text))
	}
	return string(out), err
}

// Close ends the shell.
func (s *Shell) Close() error {
	_ = s.in.Close()
	for s.status.Scan() {
		continue // the trap's last word
	}
	return s.cmd.Wait()
}
