package cgroups

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// childEnv asks the test binary to do one thing in the cgroup that it was
// started in.
const childEnv = "SIDESTEP_TEST_CHILD"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(childEnv) {
	case "":
		os.Exit(m.Run())
	case "namespace":
		err = childInNamespace(os.Args[1], os.Args[2])
	case "self":
		err = childSelf(os.Args[1], os.Args[2], os.Args[3])
	default:
		err = errors.New("no such child")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// runChild runs one of TestMain's children in the cgroup.
func runChild(t *testing.T, cgroup, child string, args ...string) {
	t.Helper()
	cmd := command(t, cgroup, os.Args[0], args...)
	cmd.Env = append(os.Environ(), childEnv+"="+child)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestProcesses(t *testing.T) {
	mount, own := cgroup2(t)
	pod := filepath.Join(own, "kubepods/pod"+uid)
	sandbox, app, nested := filepath.Join(pod, "aa"), filepath.Join(pod, "bb"), filepath.Join(pod, "bb/nested")
	neighbour := filepath.Join(own, "kubepods/pod"+other)
	for _, dir := range []string{sandbox, nested, neighbour} {
		mkdir(t, dir)
	}
	tree := open(t, mount, filepath.Join(own, "kubepods"))
	want := []int{start(t, sandbox), start(t, app), start(t, nested)}
	start(t, neighbour)
	slices.Sort(want)
	got, err := tree.Processes(pod)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Processes (-want +got):\n%s", diff)
	}
	if _, err := tree.Processes(filepath.Join(pod, "none")); !errors.Is(err, ErrGone) {
		t.Errorf("Processes of no cgroup: %v, want ErrGone", err)
	}
}

func TestSelf(t *testing.T) {
	mount, own := cgroup2(t)
	kubepods := filepath.Join(own, "kubepods")
	pod := filepath.Join(kubepods, "burstable/pod"+uid)
	container := filepath.Join(pod, cid, "nested")
	mkdir(t, container)
	mkdir(t, filepath.Join(kubepods, "burstable/pod"+other))

	runChild(t, container, "self", mount, kubepods, fmt.Sprint(id(t, pod), true))
	runChild(t, own, "self", mount, kubepods, fmt.Sprint(0, false))
	runChild(t, filepath.Join(kubepods, "burstable"), "self", mount, kubepods, fmt.Sprint(0, false))
}

func childSelf(mount, kubepods, want string) error {
	tree, err := Open(mount, kubepods, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { _ = tree.Close() }()
	id, inside, err := tree.Self()
	if err != nil {
		return err
	}
	if got := fmt.Sprint(id, inside); got != want {
		return fmt.Errorf("Self = %s, want %s", got, want)
	}
	return nil
}
