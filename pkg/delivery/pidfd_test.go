package delivery

import (
	"os/exec"
	"testing"
)

func startProcess(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func TestEndOfAProcessIsHeardOf(t *testing.T) {
	cmd := startProcess(t)
	p, err := openPidfd(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if p.ended() {
		t.Fatal("a process that runs has ended")
	}
	heard := make(chan bool)
	go func() { heard <- p.await() }()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if !<-heard || !p.ended() { // also before its parent has waited for it
		t.Error("its end was not heard of")
	}
}

func TestClosedPidfdIsWaitedForByNobody(t *testing.T) {
	p, err := openPidfd(startProcess(t).Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan bool)
	go func() { heard <- p.await() }()
	p.close()
	if <-heard {
		t.Error("a process that runs was heard to have ended")
	}
	if !p.ended() {
		t.Error("a pidfd that is closed says nothing, so it must not say that the process runs")
	}
}
