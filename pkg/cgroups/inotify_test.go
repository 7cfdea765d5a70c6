package cgroups

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/fsnotify/fsnotify"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// The kernel does not end the watch of a cgroup that is gone: none is left of
// pods that ended, however they are noticed, nor one of each pod that was made
// again at the same place.
func TestNoWatchIsLeftOfPods(t *testing.T) {
	mount, own := cgroup2(t)
	kubepods := filepath.Join(own, "kubepods")
	mkdir(t, filepath.Join(kubepods, "burstable"))
	tree := open(t, mount, kubepods)
	inotify, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = inotify.Close() })
	w := &watch{tree: tree, inotify: inotify, watched: map[string]uint64{}}
	w.scan()
	before := watches(t)

	made := func(n int) string { return filepath.Join(kubepods, "burstable", fmt.Sprintf("pod%032x", n)) }
	for n := range 10 {
		for range 3 {
			w.see(t, fsnotify.Create, podCgroup(t, made(n), uid, "aa"))
			remove(t, made(n))
			if n%2 == 0 { // of the others the events are lost
				w.see(t, fsnotify.Remove, workload.PodCgroup{Path: made(n)})
			}
		}
	}
	w.scan()
	if got := watches(t); got != before {
		t.Errorf("%d watches, want %d as before the pods", got, before)
	}
	podCgroup(t, made(0), uid)
	w.scan()
	if got := watches(t); got != before+1 {
		t.Errorf("%d watches with one pod, want %d", got, before+1)
	}
}

// see has the watch handle an event about the pod's directory.
func (w *watch) see(t *testing.T, op fsnotify.Op, pod workload.PodCgroup) {
	t.Helper()
	w.handle(fsnotify.Event{Name: pod.Path, Op: op})
}

// remove removes a pod's cgroups.
func remove(t *testing.T, path string) {
	t.Helper()
	names, err := subdirs(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(names, "") {
		if err := os.Remove(filepath.Join(path, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// watches counts the inotify watches that this process has, as the kernel does.
func watches(t *testing.T) (n int) {
	t.Helper()
	all, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		if text, err := os.ReadFile(path); err == nil { // else it was closed
			n += bytes.Count(text, []byte("inotify wd:"))
		}
	}
	return n
}
