package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// spinning is the argument with which this program keeps a processor busy.
const spinning = "spin"

func spin() {
	runtime.GOMAXPROCS(1)
	for { //nolint:staticcheck // that is all
	}
}

// makeBusy starts so many processes that keep a processor busy, and returns what
// ends them. They end with this process, too.
func makeBusy(n int) (end func(), err error) {
	// Pdeathsig fires when this thread ends, not only the process.
	runtime.LockOSThread()
	var all []*exec.Cmd
	end = func() {
		for _, c := range all {
			_ = c.Process.Kill() // it is there: it was not waited for
			_ = c.Wait()         // killed
		}
		runtime.UnlockOSThread()
	}
	for range n {
		c := exec.Command("/proc/self/exe", spinning) //nolint:noctx // end ends it
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		c.Stderr = os.Stderr
		if err := c.Start(); err != nil {
			end()
			return nil, fmt.Errorf("start a busy process: %w", err)
		}
		all = append(all, c)
	}
	return end, nil
}
