package cgroups

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// withoutDescriptors runs fn while this process can open no file.
func withoutDescriptors(t *testing.T, fn func()) {
	t.Helper()
	var had unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &had); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: had.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &had); err != nil {
			t.Fatal(err)
		}
	}()
	fn()
}

// That cgroups cannot be read, for lack of descriptors, ends no pod; one that
// is gone meanwhile is gone.
func TestPodsStayWithoutDescriptors(t *testing.T) {
	mount, own := cgroup2(t)
	kubepods := filepath.Join(own, "kubepods")
	stays := podCgroup(t, filepath.Join(kubepods, "pod"+uid), uid, "aa")
	goes := podCgroup(t, filepath.Join(kubepods, "pod"+other), other)
	var log bytes.Buffer
	tree := open(t, mount, kubepods)
	tree.log = slog.New(slog.NewTextHandler(&log, nil))
	w := &watch{tree: tree}
	w.scan()
	if err := os.Remove(goes.Path); err != nil {
		t.Fatal(err)
	}
	withoutDescriptors(t, func() {
		w.handle(fsnotify.Event{Name: stays.Path, Op: fsnotify.Create})
		w.scan()
		w.scan()
	})
	wantPods(t, tree, stays)
	if w.unread == nil || strings.Count(log.String(), "cannot be read") != 1 {
		t.Errorf("unread: %v, log:\n%s\nwant one line", w.unread, log.String())
	}
	stays = podCgroup(t, stays.Path, uid, "aa", "bb")
	w.scan()
	wantPods(t, tree, stays)
	if w.unread != nil {
		t.Errorf("still unread: %v", w.unread)
	}
}

func wantPods(t *testing.T, tree *Tree, want ...workload.PodCgroup) {
	t.Helper()
	got := tree.Snapshot()
	if len(got) != len(want) {
		t.Fatalf("%+v, want %+v", got, want)
	}
	for i := range got {
		if !equalPod(got[i], want[i]) {
			t.Errorf("%+v, want %+v", got[i], want[i])
		}
	}
}
