package lab

import (
	"context"
	"errors"
	"flag"
	"net"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(Suite("test-kernel", m.Run))
}

const here = "/proc/thread-self/ns/net"

func newPodInLab(t *testing.T) *Pod {
	t.Helper()
	n, err := NewNode(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	p, err := n.StartPod(PodOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPodIsIsolated(t *testing.T) {
	if err := CheckIsolated(newPodInLab(t).Netns(), here); err != nil {
		t.Error(err)
	}
}

func TestMachinesNamespaceIsNotIsolated(t *testing.T) {
	inode, err := netnsInode(here)
	if err != nil {
		t.Fatal(err)
	}
	// Were the lab's namespace the machine's, it would be refused.
	t.Setenv(envHostNetns, strconv.FormatUint(inode, 10))
	if err := CheckIsolated(here, here); !errors.Is(err, ErrNotIsolated) {
		t.Errorf("error %v, want ErrNotIsolated", err)
	}
}

// TestWithoutTheSetUp removes what makes the lab safe, once here and once
// there: each time the check fails and a pod refuses to start anything.
func TestWithoutTheSetUp(t *testing.T) {
	t.Run("the node does not own the address", func(t *testing.T) {
		p := newPodInLab(t)
		leadElsewhere(t, "outside", here)
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			t.Fatal(err)
		}
		address := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(IMDS).To4(), Mask: net.CIDRMask(32, 32)}}
		if err := netlink.AddrDel(lo, address); err != nil {
			t.Fatal(err)
		}
		mustRefuse(t, p)
	})
	t.Run("the pod has a way past the node", func(t *testing.T) {
		p := newPodInLab(t)
		leadElsewhere(t, "bypass", p.Netns())
		mustRefuse(t, p)
	})
}

// leadElsewhere routes the metadata service's address from the namespace at
// path over a veth pair into a third namespace that is neither node nor pod.
func leadElsewhere(t *testing.T, name, path string) {
	t.Helper()
	foreign := newPodInLab(t)
	third, err := openHandle(foreign.Netns())
	if err != nil {
		t.Fatal(err)
	}
	defer third.close()
	from, err := openHandle(path)
	if err != nil {
		t.Fatal(err)
	}
	defer from.close()
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name, PeerNamespace: netlink.NsFd(third.ns),
	}
	if err := from.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if h, err := openHandle(path); err == nil {
			h.LinkDel(veth)
			h.close()
		}
	})
	link, err := from.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := from.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	err = from.RouteReplace(&netlink.Route{
		LinkIndex: link.Attrs().Index,
		Dst:       &net.IPNet{IP: net.ParseIP(IMDS).To4(), Mask: net.CIDRMask(32, 32)},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func mustRefuse(t *testing.T, p *Pod) {
	t.Helper()
	if err := CheckIsolated(p.Netns(), here); !errors.Is(err, ErrNotIsolated) {
		t.Errorf("the check says %v, want ErrNotIsolated", err)
	}
	ran := t.TempDir() + "/ran"
	if err := p.Start(exec.CommandContext(context.Background(), "touch", ran)); !errors.Is(err, ErrNotIsolated) {
		t.Errorf("the pod started a process: %v", err)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("the process ran")
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	n, err := NewNode(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p, err := n.StartPod(PodOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(exec.Command("sleep", "infinity")); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(os.Getenv(envCgroup))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if e.IsDir() && e.Name() != ownCgroup { // this process's
			t.Errorf("left behind: %s", e.Name())
		}
	}
}
