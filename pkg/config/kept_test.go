package config

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

const bad = header + "mode: auditt\n"

// The watcher of an agent that had a good file, which keeps it, and ends.
func keepGood(t *testing.T, path, stateDir, text string) {
	t.Helper()
	write(t, path, text)
	w := openWatcher(t, WatcherOptions{Path: path, StateDir: stateDir})
	ctx, cancel := context.WithCancel(t.Context())
	kept := make(chan error, 1)
	go func() { kept <- w.Keep(ctx) }()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(newKept(stateDir).path); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing is kept")
		}
	}
	cancel()
	if err := receive(t, kept); err != nil {
		t.Fatal(err)
	}
}

func TestABadFileAtTheStartTakesTheLastGoodOne(t *testing.T) {
	path, stateDir := filepath.Join(t.TempDir(), "agent.yaml"), t.TempDir()
	keepGood(t, path, stateDir, header+"mode: audit\n")
	write(t, path, bad)
	reg := prometheus.NewRegistry()
	w := openWatcher(t, WatcherOptions{Path: path, StateDir: stateDir, Registerer: reg})
	if got := w.Initial(); got.Mode != ModeAudit || got.AllHeld {
		t.Errorf("mode %s, all held %v; want audit, as it was kept", got.Mode, got.AllHeld)
	}
	state := w.State()
	if state.Origin != OriginKept || state.Refused == nil || !strings.Contains(state.Refused.Error(), "auditt") {
		t.Errorf("state %+v, want the kept one, with what is wrong with the file", state)
	}
	if got := testutil.ToFloat64(w.successful); got != 0 {
		t.Errorf("sidestep_config_last_reload_successful is %v with a refused file", got)
	}
	s := newSeen()
	w.run(t, s)
	if err := receive(t, s.refused); !strings.Contains(err.Error(), "auditt") {
		t.Errorf("refused: %v", err)
	}
	write(t, path, header+"unlabeled: deny\n")
	if got := receive(t, s.applied); got.Unlabeled != UnlabeledDeny {
		t.Errorf("then: %+v", got)
	}
	if state := w.State(); state.Origin != OriginFile || state.Refused != nil {
		t.Errorf("state %+v once the file is good", state)
	}
}

func TestWithNothingValidEveryPodIsHeld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	for name, prepare := range map[string]func(stateDir string){
		"nothing kept":           func(string) {},
		"kept by another agent":  func(dir string) { write(t, newKept(dir).path, header+"limits: {next: 1}\n") },
		"others may write there": func(dir string) { write(t, newKept(dir).path, header) },
	} {
		t.Run(name, func(t *testing.T) {
			write(t, path, bad)
			stateDir := t.TempDir()
			prepare(stateDir)
			if name == "kept by another agent" {
				if err := os.Chmod(newKept(stateDir).path, 0o600); err != nil {
					t.Fatal(err)
				}
			} else if err := os.Chmod(newKept(stateDir).path, 0o666); err != nil && name != "nothing kept" {
				t.Fatal(err)
			}
			w := openWatcher(t, WatcherOptions{Path: path, StateDir: stateDir})
			c := w.Initial()
			if !c.AllHeld || c.Mode != ModeEnforce || c.Unknown != UnknownHold || c.UnknownHostNetwork != UnknownHold {
				t.Errorf("%+v, want all held", c)
			}
			if state := w.State(); state.Origin != OriginNone || state.Refused == nil {
				t.Errorf("state %+v", state)
			}
		})
	}
}

func TestNoFileSaysThatAllAreHeld(t *testing.T) {
	for _, field := range []string{"AllHeld", "allHeld", "-"} {
		if _, err := Parse([]byte(header + `"` + field + `": true` + "\n")); err == nil {
			t.Errorf("a file may say %s", field)
		}
	}
}

// What cannot be replaced is removed: it may let pods through that are steered
// since.
func TestAnOldVersionIsNotKept(t *testing.T) {
	path, stateDir := filepath.Join(t.TempDir(), "agent.yaml"), t.TempDir()
	keepGood(t, path, stateDir, header)
	w := openWatcher(t, WatcherOptions{Path: path, StateDir: stateDir})
	// Nothing can be written in the place of a directory that is not empty.
	if err := os.MkdirAll(filepath.Join(newKept(stateDir).next(), "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.keep()
	if err := w.State().NotKept; err == nil {
		t.Error("it counts as kept")
	}
	if _, err := os.Stat(newKept(stateDir).path); !os.IsNotExist(err) {
		t.Errorf("the old one is still there: %v", err)
	}
	if err := os.RemoveAll(newKept(stateDir).next()); err != nil {
		t.Fatal(err)
	}
	w.keep()
	if err := w.State().NotKept; err != nil {
		t.Error(err)
	}
	files, err := Leftovers(stateDir)
	if err != nil || len(files) != 1 {
		t.Errorf("leftovers %v, %v", files, err)
	}
}
