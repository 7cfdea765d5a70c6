package cgroups

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// watched is a tree that is being kept current.
type watched struct {
	*Tree
	changed <-chan struct{}
}

// follow runs the tree and waits until it is ready.
func follow(t *testing.T, tree *Tree, run func(context.Context) error) watched {
	t.Helper()
	changed, unsubscribe := tree.Subscribe()
	t.Cleanup(unsubscribe)
	ctx, cancel := context.WithCancel(context.Background())
	var g errgroup.Group
	g.Go(func() error { return run(ctx) })
	t.Cleanup(func() {
		cancel()
		if err := g.Wait(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	<-tree.Ready()
	return watched{tree, changed}
}

// wait reads the tree after each change until want is the snapshot.
func (w watched) wait(t *testing.T, want []workload.PodCgroup) {
	t.Helper()
	// Only a failing test meets this limit: its cgroups are to be removed too.
	limit := time.After(30 * time.Second)
	for !cmp.Equal(w.Snapshot(), want, byPath) {
		select {
		case <-w.changed:
		case <-limit:
			t.Fatalf("snapshot (-want +got):\n%s", cmp.Diff(want, w.Snapshot()))
		}
	}
}

// byPath compares snapshots whatever their order.
var byPath = cmp.Transformer("byPath", func(pods []workload.PodCgroup) map[string]workload.PodCgroup {
	m := map[string]workload.PodCgroup{}
	for _, p := range pods {
		m[p.Path] = p
	}
	return m
})

// podCgroup makes a pod with containers and returns what the snapshot has of
// it.
func podCgroup(t *testing.T, path, uid string, containers ...string) workload.PodCgroup {
	t.Helper()
	mkdir(t, path)
	pod := workload.PodCgroup{UID: uid, CgroupID: id(t, path), Path: path}
	for _, c := range containers {
		dir := filepath.Join(path, c)
		mkdir(t, dir)
		pod.Containers = append(pod.Containers,
			workload.ContainerCgroup{ContainerID: c, CgroupID: id(t, dir), Path: dir})
	}
	return pod
}

func TestRunFollowsPods(t *testing.T) {
	mount, own := cgroup2(t)
	kubepods := filepath.Join(own, "kubepods")
	first := podCgroup(t, filepath.Join(kubepods, "pod"+uid), uid, "aa")
	mkdir(t, filepath.Join(first.Path, "crio-conmon-aa.scope"))
	tree := open(t, mount, kubepods)
	if got := tree.Snapshot(); len(got) != 0 {
		t.Errorf("before Run: %v", got)
	}
	w := follow(t, tree, tree.Run)
	w.wait(t, []workload.PodCgroup{first})

	// A QoS level, a pod and a container, made faster than watches are added.
	second := podCgroup(t, filepath.Join(kubepods, "burstable/pod"+other), other, "bb")
	w.wait(t, []workload.PodCgroup{first, second})

	// A container that comes later, and one that goes.
	first = podCgroup(t, first.Path, uid, "aa", "cc")
	w.wait(t, []workload.PodCgroup{first, second})
	if err := os.Remove(second.Containers[0].Path); err != nil {
		t.Fatal(err)
	}
	second.Containers = nil
	w.wait(t, []workload.PodCgroup{first, second})

	// A pod that goes.
	if err := os.Remove(second.Path); err != nil {
		t.Fatal(err)
	}
	w.wait(t, []workload.PodCgroup{first})

	// The same pod again: another cgroup.
	again := podCgroup(t, second.Path, other, "dd")
	if again.CgroupID == second.CgroupID {
		t.Error("a cgroup made again has the old id")
	}
	w.wait(t, []workload.PodCgroup{first, again})
}

func TestRunSeesABurst(t *testing.T) {
	mount, own := cgroup2(t)
	kubepods := filepath.Join(own, "kubepods")
	mkdir(t, kubepods)
	tree := open(t, mount, kubepods)
	w := follow(t, tree, tree.Run)
	var want []workload.PodCgroup
	for i := range 64 {
		uid := fmt.Sprintf("%032x", i)
		path := filepath.Join(kubepods, "besteffort", "pod"+uid)
		want = append(want, podCgroup(t, path, uid, "aa", "bb"))
	}
	w.wait(t, want)
}

func TestRunFollowsKubepodsMadeAgain(t *testing.T) {
	mount, own := cgroup2(t)
	kubepods := filepath.Join(own, "kubelet.slice/kubelet-kubepods.slice")
	mkdir(t, kubepods)
	old := id(t, kubepods)
	tree := open(t, mount, kubepods)
	if got := tree.KubepodsID(); got != old {
		t.Errorf("KubepodsID before Run = %d, want %d", got, old)
	}
	w := follow(t, tree, tree.Run)
	for _, dir := range []string{kubepods, filepath.Dir(kubepods)} {
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
	}
	for w.KubepodsID() != 0 {
		<-w.changed
	}
	pod := podCgroup(t, filepath.Join(kubepods, "kubelet-kubepods-pod"+escaped+".slice"), uid, "aa")
	w.wait(t, []workload.PodCgroup{pod})
	if got, want := w.KubepodsID(), id(t, kubepods); got != want || got == old {
		t.Errorf("KubepodsID = %d, want %d, not %d", got, want, old)
	}
	if ref, err := w.Resolve(pod.CgroupID); err != nil || ref.PodUID != uid {
		t.Errorf("Resolve = %+v, %v", ref, err)
	}
	// Pods are still followed in the new one.
	pod = podCgroup(t, pod.Path, uid, "aa", "bb")
	w.wait(t, []workload.PodCgroup{pod})
}

func TestRunWithoutInotify(t *testing.T) {
	mount, own := cgroup2(t)
	kubepods := filepath.Join(own, "kubepods")
	mkdir(t, kubepods)
	tree := open(t, mount, kubepods)
	w := follow(t, tree, func(ctx context.Context) error {
		return tree.run(ctx, &watch{tree: tree, missing: errors.New("no instances left")}, nil, nil)
	})
	w.wait(t, []workload.PodCgroup{podCgroup(t, filepath.Join(kubepods, "pod"+uid), uid, "aa")})
}

func TestRunReadsAllAfterOverflow(t *testing.T) {
	mount, own := cgroup2(t)
	kubepods := filepath.Join(own, "kubepods")
	mkdir(t, kubepods)
	tree := open(t, mount, kubepods)
	errs := make(chan error)
	w := follow(t, tree, func(ctx context.Context) error {
		return tree.run(ctx, &watch{tree: tree}, nil, errs)
	})
	pod := podCgroup(t, filepath.Join(kubepods, "pod"+uid), uid, "aa")
	errs <- fsnotify.ErrEventOverflow
	w.wait(t, []workload.PodCgroup{pod})
}

func TestSubscribeCoalesces(t *testing.T) {
	tree := &Tree{pods: map[string]workload.PodCgroup{}, subscribers: map[chan struct{}]struct{}{}}
	changed, unsubscribe := tree.Subscribe()
	tree.put(workload.PodCgroup{Path: "a"})
	tree.put(workload.PodCgroup{Path: "b"})
	<-changed
	select {
	case <-changed:
		t.Error("two changes that were not read are two values")
	default:
	}
	tree.put(workload.PodCgroup{Path: "b"})
	tree.drop("c")
	select {
	case <-changed:
		t.Error("notified although nothing changed")
	default:
	}
	unsubscribe()
	tree.drop("a")
	select {
	case <-changed:
		t.Error("notified after the subscription ended")
	default:
	}
}
