package cgroups

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func TestResolve(t *testing.T) {
	mount, own := cgroup2(t)
	kubepods := filepath.Join(own, "kubepods.slice")
	pod := filepath.Join(kubepods, "kubepods-burstable.slice/kubepods-burstable-pod"+escaped+".slice")
	container := filepath.Join(pod, "cri-containerd-"+cid+".scope")
	nested := filepath.Join(container, "pod"+other)
	outside := filepath.Join(own, "elsewhere/pod"+uid)
	mkdir(t, nested)
	mkdir(t, outside)
	tree := open(t, mount, kubepods)

	want := workload.CgroupRef{PodUID: uid, ContainerID: cid}
	for path, want := range map[string]workload.CgroupRef{pod: {PodUID: uid}, container: want, nested: want} {
		for _, time := range []string{"first", "second"} {
			if got, err := tree.Resolve(id(t, path)); err != nil || got != want {
				t.Errorf("%s Resolve(%s) = %+v, %v, want %+v", time, path, got, err, want)
			}
		}
	}
	notPods := []string{mount, own, kubepods, filepath.Dir(pod), outside, filepath.Join(pod, "cgroup.procs")}
	for _, path := range notPods {
		if got, err := tree.Resolve(id(t, path)); !errors.Is(err, ErrNotPod) {
			t.Errorf("Resolve(%s) = %+v, %v, want ErrNotPod", path, got, err)
		}
	}
}

func TestResolveGone(t *testing.T) {
	mount, own := cgroup2(t)
	kubepods := filepath.Join(own, "kubepods")
	pod := filepath.Join(kubepods, "pod"+uid)
	mkdir(t, pod)
	tree := open(t, mount, kubepods)
	old := id(t, pod)
	if err := os.Remove(pod); err != nil {
		t.Fatal(err)
	}
	mkdir(t, pod)
	for _, gone := range []uint64{old, 0, 1 << 62} {
		_, err := tree.Resolve(gone)
		if !errors.Is(err, ErrGone) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Resolve(%d) = %v, want ErrGone", gone, err)
		}
	}
	if _, err := tree.Resolve(id(t, pod)); err != nil {
		t.Errorf("the cgroup made again: %v", err)
	}
	if err := os.Remove(pod); err != nil {
		t.Fatal(err)
	}
	if _, err := ID(pod); !errors.Is(err, ErrGone) {
		t.Errorf("ID of a removed cgroup: %v, want ErrGone", err)
	}
}

// TestResolveInCgroupNamespace resolves on a mount whose root is not the true
// root, as in a cluster whose nodes are containers.
func TestResolveInCgroupNamespace(t *testing.T) {
	mount, own := cgroup2(t)
	mkdir(t, filepath.Join(own, "node/kubepods/pod"+uid))
	mkdir(t, filepath.Join(own, "other/kubepods/pod"+other))
	runChild(t, filepath.Join(own, "node"), "namespace", mount, own)
}

func childInNamespace(mount, outer string) error {
	pod, err := ID(filepath.Join(outer, "node/kubepods/pod"+uid))
	if err != nil {
		return err
	}
	foreign, err := ID(filepath.Join(outer, "other/kubepods/pod"+other))
	if err != nil {
		return err
	}
	runtime.LockOSThread() // and never unlocked: the thread ends with its namespaces
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP); err != nil {
		return err
	}
	mount, err = mountAbove(mount)
	if err != nil {
		return err
	}
	tree, err := Open(mount, filepath.Join(mount, "kubepods"), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { _ = tree.Close() }()
	if ref, err := tree.Resolve(pod); err != nil || ref.PodUID != uid {
		return errors.Join(errors.New("own pod: "+ref.PodUID), err)
	}
	if ref, err := tree.Resolve(foreign); !errors.Is(err, ErrNotPod) {
		return errors.Join(errors.New("pod outside the namespace: "+ref.PodUID), err)
	}
	return nil
}

// mountAbove mounts cgroup v2 again and returns where. The place is above the
// mount that is there, which can be made private so that nothing is seen
// outside; "/" cannot where it is a chroot's.
func mountAbove(there string) (string, error) {
	if err := unix.Mount("", there, "", unix.MS_PRIVATE, ""); err != nil {
		return "", err
	}
	// A filesystem may not be mounted directly on itself.
	if err := unix.Mount("tmpfs", there, "tmpfs", 0, ""); err != nil {
		return "", err
	}
	mount := filepath.Join(there, "cgroup")
	if err := os.Mkdir(mount, 0o755); err != nil {
		return "", err
	}
	return mount, unix.Mount("cgroup2", mount, "cgroup2", 0, "")
}

func TestOpenRefuses(t *testing.T) {
	mount, own := cgroup2(t)
	log := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	mkdir(t, filepath.Join(dir, "kubepods"))
	tests := map[string][2]string{
		"not cgroup v2":   {dir, filepath.Join(dir, "kubepods")},
		"not below":       {own, mount},
		"the root itself": {mount, mount},
		"no kubepods":     {mount, filepath.Join(own, "kubepods")},
		"no root":         {filepath.Join(dir, "none"), filepath.Join(dir, "none/kubepods")},
	}
	for name, tc := range tests {
		if tree, err := Open(tc[0], tc[1], log); err == nil {
			_ = tree.Close()
			t.Errorf("%s: no error", name)
		}
	}
}
