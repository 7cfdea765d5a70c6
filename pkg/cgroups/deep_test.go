package cgroups

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// A container that may make cgroups makes them deeper than a path can be long.
// That neither stops an agent, nor hides a process from it.
func TestDeepCgroups(t *testing.T) {
	mount, own := cgroup2(t)
	kubepods := filepath.Join(own, "kubepods")
	pod := filepath.Join(kubepods, "burstable/pod"+uid)
	container := filepath.Join(pod, cid)
	mkdir(t, container)
	neighbour := filepath.Join(kubepods, "burstable/pod"+other, cid)
	mkdir(t, neighbour)
	deep := mkdirDeep(t, container)
	tree := open(t, mount, kubepods)
	want := []int{start(t, container), startCommand(t, commandIn(deep, "sleep", "60"))}
	slices.Sort(want)

	got, err := tree.Processes(pod)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("Processes = %v, %v; want %v", got, err, want)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(deep.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	ref, err := tree.Resolve(st.Ino)
	if want := (workload.CgroupRef{PodUID: uid, ContainerID: cid}); err != nil || ref != want {
		t.Errorf("Resolve = %+v, %v; want %+v", ref, err, want)
	}
	w := &watch{tree: tree}
	w.scan()
	if pods := tree.Snapshot(); len(pods) != 2 || w.unread != nil {
		t.Errorf("a scan finds %d pods, %v; want 2", len(pods), w.unread)
	}
	runChild(t, neighbour, "self", mount, kubepods, fmt.Sprint(id(t, filepath.Dir(neighbour)), true))
	runChild(t, own, "self", mount, kubepods, fmt.Sprint(0, false))
}
