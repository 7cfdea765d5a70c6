package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a daemon with its output in a file.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once it has ended
	log  string
}

// precedence is how much nicer than the control plane this process is, where it
// may be: a cluster's agents do not run on the API server's cores.
const precedence = -10

// startProcess runs a program of the folder bin. The caller stops it.
func startProcess(bin, dir, name string, args ...string) (*process, error) {
	p := &process{done: make(chan struct{}), log: filepath.Join(dir, name+".log")}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }() // the process has its own by then
	program := []string{"-n", strconv.Itoa(precedence), filepath.Join(bin, name)}
	p.cmd = exec.Command("nice", append(program, args...)...) //nolint:noctx // stop ends it; nice(1) becomes the program
	p.cmd.Stdout, p.cmd.Stderr = out, out
	started := make(chan error)
	go func() {
		// Pdeathsig fires when this thread ends, which must outlive the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // its log says why
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// kill ends the process at once, as the loss of a machine does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// await asks until ready returns nil. It fails if the process ends first, with
// the end of its log.
func (p *process) await(ctx context.Context, ready func() error) error {
	deadline := time.Now().Add(2 * time.Minute)
	for {
		err := ready()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready in time: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.done:
			return errors.New("it ended: " + p.tail())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// tail returns the last lines that the process wrote.
func (p *process) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// residentMB returns the memory that the process has in RAM, in MB.
func residentMB(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	pages, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0, err
	}
	return float64(pages*os.Getpagesize()) / 1e6, nil
}

// freePort returns a port of loopback that is free now.
func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0") //nolint:noctx // it is at once
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}
