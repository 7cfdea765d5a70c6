package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/bootguard"
	"github.com/sidestep-agent/sidestep/pkg/config"
)

const configHead = "apiVersion: " + config.APIVersion + "\nkind: " + config.Kind + "\n"

// What is kept for the boot guard is read by it, and is what it obeys.
func TestBootSettings(t *testing.T) {
	for _, fields := range []string{
		"", "mode: audit\n", "unknown: pass\n", "unknownHostNetwork: hold\nwireServer: deny\n",
		"exceptions:\n- namespaces: [a]\nscope: {namespaces: [b]}\nunlabeled: deny\n",
	} {
		c, err := config.Parse([]byte(configHead + fields))
		if err != nil {
			t.Fatal(err)
		}
		kept, err := BootSettings(c)
		if err != nil {
			t.Fatal(err)
		}
		read, err := config.Parse(kept)
		if err != nil {
			t.Fatalf("%v in %s", err, kept)
		}
		p := Programs{Listen: netip.MustParseAddrPort("169.254.169.252:2579"), Guard: GuardFull}
		agent, err := p.settings(c, t.TempDir(), 1, 2)
		if err != nil {
			t.Fatal(err)
		}
		if guard, err := p.settings(read, t.TempDir(), 1, 2); err != nil || agent != guard {
			t.Errorf("%q: the agent tells the kernel %+v, the boot guard %+v, %v", fields, agent, guard, err)
		}
	}
}

// After each change the file is as the configuration is, also after one that
// could not be written.
func TestKeepBootConfig(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sidestep")
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // in the directory's place
		t.Fatal(err)
	}
	c := config.Default()
	changes := make(chan struct{}, 1)
	var active atomic.Pointer[config.AgentConfiguration]
	active.Store(c)
	b := &bootConfig{path: filepath.Join(dir, "boot.yaml"), log: slog.New(slog.DiscardHandler), active: active.Load, changed: changes}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.run(ctx) }()
	await := func(what string, so func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !so(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("after 30 s not so: %s", what)
			}
		}
	}
	await("a problem is reported", func() bool { _, problems := b.status(); return len(problems) == 1 })
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []config.Mode{config.ModeAudit, config.ModeEnforce} {
		changed := *c
		changed.Mode = mode
		active.Store(&changed)
		changes <- struct{}{}
		await(string(mode)+" is kept", func() bool {
			kept, err := config.Load(b.path)
			return err == nil && kept.Mode == mode
		})
	}
	await("no problem is reported", func() bool { _, problems := b.status(); return len(problems) == 0 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestStatusOfTheBootGuard(t *testing.T) {
	installed := bootguard.Files{StateDir: t.TempDir()}
	held := bootguard.Files{StateDir: t.TempDir()}
	if err := errors.Join(held.NoteHeld(), os.WriteFile(filepath.Join(installed.StateDir, "boot-guard"), []byte(bootguard.Installed), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		stateDir, bootConfig string
		says                 string
		problems             int
	}{
		{t.TempDir(), "", "", 0},
		{t.TempDir(), "/x", "has not held", 0},
		{installed.StateDir, "/x", "has not held", 0},
		{held.StateDir, "/x", "held at this boot", 0},
		{held.StateDir, "", "held at this boot", 1},
	} {
		b := &bootConfig{stateDir: tt.stateDir, path: tt.bootConfig}
		says, problems := b.status()
		if !strings.HasPrefix(says, tt.says) || (says == "") != (tt.says == "") || len(problems) != tt.problems {
			t.Errorf("%+v: %q, %q", tt, says, problems)
		}
	}
}
