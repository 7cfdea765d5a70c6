package lab

import (
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// IMDS is the address of the instance metadata service.
const IMDS = "169.254.169.254"

// Node is the node that this process is in, below Main.
type Node struct {
	// CgroupRoot is the cgroup v2 mount, Kubepods the pods' cgroup in it.
	CgroupRoot, Kubepods string
	// BPFFS is a BPF filesystem of the lab's own.
	BPFFS string
	// KubeletDir has the pods' volumes, as a kubelet would lay them out.
	KubeletDir string
}

// NewNode makes kubepods, a BPF filesystem and a kubelet directory below dir,
// and brings 169.254.169.254 up on the loopback link of this namespace, so
// that it leads to whoever listens there and nowhere else. It may be called
// several times; each has a kubepods of its own.
func NewNode(dir string) (*Node, error) {
	root, err := cgroupMount()
	if err != nil {
		return nil, err
	}
	top, err := os.MkdirTemp(os.Getenv(envCgroup), "node-")
	if err != nil {
		return nil, err
	}
	n := &Node{
		CgroupRoot: root,
		Kubepods:   filepath.Join(top, "kubepods"),
		BPFFS:      filepath.Join(dir, "bpf"),
		KubeletDir: filepath.Join(dir, "kubelet"),
	}
	for _, d := range []string{filepath.Join(n.Kubepods, "burstable"), n.BPFFS, n.KubeletDir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	if err := unix.Mount("bpf", n.BPFFS, "bpf", 0, ""); err != nil {
		return nil, fmt.Errorf("mount a BPF filesystem: %w", err)
	}
	return n, ownIMDS()
}

// Close kills what still runs below kubepods and removes what NewNode made.
func (n *Node) Close() error {
	if err := killCgroup(n.Kubepods); err != nil {
		return err
	}
	if err := unix.Unmount(n.BPFFS, unix.MNT_DETACH); err != nil {
		return err
	}
	return removeCgroups(filepath.Dir(n.Kubepods))
}

func ownIMDS() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	err = netlink.AddrReplace(lo, &netlink.Addr{IPNet: host(net.ParseIP(IMDS).To4())})
	if err != nil {
		return fmt.Errorf("put %s on the loopback link: %w", IMDS, err)
	}
	return nil
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

func netnsInode(path string) (uint64, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, fmt.Errorf("stat %s: %w", path, err)
	}
	return stat.Ino, nil
}
