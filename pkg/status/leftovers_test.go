package status

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLeftovers(t *testing.T) {
	dir := stateDir(t)
	if all, err := Leftovers(dir); err != nil || len(all) != 0 {
		t.Errorf("of no agent: %v, %v", all, err)
	}
	path := filepath.Join(dir, socketOf(instance))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	all, err := Leftovers(dir)
	if err != nil || len(all) != 1 || !strings.Contains(all[0].What, path) {
		t.Fatalf("of a dead agent: %v, %v", all, err)
	}
	for range 2 { // the second time it is gone
		if err := all[0].Remove(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is there: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := all[0].Remove(); err == nil {
		t.Error("a file that is no socket was removed")
	}
}

func TestAnswers(t *testing.T) {
	dir := stateDir(t)
	if answers, err := Answers(t.Context(), dir); err != nil || answers {
		t.Errorf("of no agent: %t, %v", answers, err)
	}
	stop := serve(t, dir, func() Report { return Report{} })
	if answers, err := Answers(t.Context(), dir); err != nil || !answers {
		t.Errorf("of an agent that is not ready: %t, %v", answers, err)
	}
	stop()
	if answers, err := Answers(t.Context(), dir); err != nil || answers {
		t.Errorf("of an agent that ended: %t, %v", answers, err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if answers, err := Answers(t.Context(), file); err == nil || answers {
		t.Errorf("of a directory that is none: %t, %v, want an error", answers, err)
	}
}
