package cgroups

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// A cgroup that was resolved before is gone for the next request that comes
// after its removal, with a process of its own elsewhere or not.
func TestResolveKnownGone(t *testing.T) {
	mount, own := cgroup2(t)
	kubepods := filepath.Join(own, "kubepods")
	pod := filepath.Join(kubepods, "pod"+uid)
	mkdir(t, pod)
	tree := open(t, mount, kubepods)
	old := id(t, pod)
	for range 3 {
		if ref, err := tree.Resolve(old); err != nil || ref.PodUID != uid {
			t.Fatalf("Resolve = %+v, %v", ref, err)
		}
	}
	if _, known := tree.known.byID[old]; !known {
		t.Fatal("the cgroup is not kept")
	}
	if err := os.Remove(pod); err != nil {
		t.Fatal(err)
	}
	if ref, err := tree.Resolve(old); !errors.Is(err, ErrGone) || ref != (workload.CgroupRef{}) {
		t.Errorf("Resolve = %+v, %v, want ErrGone", ref, err)
	}
	mkdir(t, pod)
	if _, err := tree.Resolve(old); !errors.Is(err, ErrGone) {
		t.Errorf("Resolve of the old id = %v, want ErrGone", err)
	}
	if ref, err := tree.Resolve(id(t, pod)); err != nil || ref.PodUID != uid {
		t.Errorf("the cgroup made again: %+v, %v", ref, err)
	}
	tree.known.forgetGone()
	if _, kept := tree.known.byID[old]; kept || len(tree.known.byID) != 1 {
		t.Errorf("%d cgroups are kept, want the one that exists", len(tree.known.byID))
	}
}

// followPod follows a tree in which one pod with a container runs, and returns
// what knows the tree, the pod's path and what it is.
func followPod(t *testing.T) (tree *Tree, w watched, pod string, want workload.PodCgroup) {
	t.Helper()
	mount, own := cgroup2(t)
	kubepods := filepath.Join(own, "kubepods")
	pod = filepath.Join(kubepods, "pod"+uid)
	want = podCgroup(t, pod, uid, cid)
	tree = open(t, mount, kubepods)
	w = follow(t, tree, tree.Run)
	w.wait(t, []workload.PodCgroup{want})
	return tree, w, pod, want
}

// What is kept of a pod that ends is closed then, and not with the next look at
// the whole tree.
func TestKnownFilesAreClosedWithTheirPod(t *testing.T) {
	tree, w, pod, want := followPod(t)
	for _, path := range []string{pod, want.Containers[0].Path} {
		if _, err := tree.Resolve(id(t, path)); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{want.Containers[0].Path, pod} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	w.wait(t, nil)
	tree.known.mu.RLock()
	defer tree.known.mu.RUnlock()
	if n := len(tree.known.byID); n != 0 {
		t.Errorf("%d files are kept", n)
	}
}

// So is what is kept of a container that ends in a pod that goes on. Its successor
// is known at its first request, whether it was listed yet or not.
func TestKnownFilesAreClosedWithTheirContainer(t *testing.T) {
	tree, w, pod, want := followPod(t)
	old := want.Containers[0]
	if _, err := tree.Resolve(old.CgroupID); err != nil {
		t.Fatal(err)
	}
	next := filepath.Join(pod, strings.Repeat("f", len(cid)))
	mkdir(t, next)
	ref, err := tree.Resolve(id(t, next))
	if err != nil || ref != (workload.CgroupRef{PodUID: uid, ContainerID: filepath.Base(next)}) {
		t.Errorf("the container that has just started: %+v, %v", ref, err)
	}
	started := workload.ContainerCgroup{ContainerID: filepath.Base(next), CgroupID: id(t, next), Path: next}
	want.Containers = []workload.ContainerCgroup{old, started}
	w.wait(t, []workload.PodCgroup{want})
	if err := os.Remove(old.Path); err != nil {
		t.Fatal(err)
	}
	want.Containers = []workload.ContainerCgroup{started}
	w.wait(t, []workload.PodCgroup{want})
	tree.known.mu.RLock()
	defer tree.known.mu.RUnlock()
	if _, kept := tree.known.byID[old.CgroupID]; kept || len(tree.known.byID) != 1 {
		t.Errorf("%d files are kept, want the running container's", len(tree.known.byID))
	}
}

// What is kept does not keep a cgroup from being removed, and is closed in the
// end.
func TestKnownFilesAreClosed(t *testing.T) {
	mount, own := cgroup2(t)
	kubepods := filepath.Join(own, "kubepods")
	tree := open(t, mount, kubepodsWith(t, kubepods, 20))
	for _, p := range podsOf(t, kubepods) {
		if _, err := tree.Resolve(id(t, p)); err != nil {
			t.Fatal(err)
		}
	}
	files := make(map[string]bool)
	for _, s := range tree.known.byID {
		files[fmt.Sprintf("/proc/self/fd/%d", s.witness)] = true
	}
	if len(files) != 20 {
		t.Fatalf("%d files are open, want 20", len(files))
	}
	for _, p := range podsOf(t, kubepods) {
		if err := os.Remove(p); err != nil {
			t.Error(err)
		}
	}
	tree.known.forgetGone()
	for f := range files {
		if to, err := os.Readlink(f); err == nil && filepath.Base(to) == witness {
			t.Errorf("%s is still open on %s", f, to)
		}
	}
}

// kubepodsWith makes pods and returns kubepods.
func kubepodsWith(t *testing.T, kubepods string, pods int) string {
	t.Helper()
	for i := range pods {
		mkdir(t, filepath.Join(kubepods, fmt.Sprintf("pod%s%02d", uid[:len(uid)-2], i)))
	}
	return kubepods
}

func podsOf(t *testing.T, kubepods string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(kubepods, "pod*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func BenchmarkResolve(b *testing.B) {
	mount, own := cgroup2(b)
	kubepods := filepath.Join(own, "kubepods")
	pod := filepath.Join(kubepods, "pod"+uid)
	mkdir(b, pod)
	tree := open(b, mount, kubepods)
	for name, forget := range map[string]func(){"known": func() {}, "again": tree.known.close} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			id := id(b, pod)
			for b.Loop() {
				forget()
				if _, err := tree.Resolve(id); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
