package kernel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/lab"
)

func init() { lab.Register("uninstall", uninstall) }

// uninstall removes all that there is on the node and returns its names.
func uninstall(bpffs string) ([]string, error) {
	all, err := leftovers(bpffs)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, l := range all {
		if err := l.Remove(); err != nil {
			return names, fmt.Errorf("%s: %w", l.What, err)
		}
		names = append(names, l.What)
	}
	return names, nil
}

func leftovers(bpffs string) ([]workload.Leftover, error) {
	kernel, err := intercept.Leftovers(bpffs)
	if err != nil {
		return nil, err
	}
	address, err := delivery.Leftovers(nodeListener.Addr())
	return append(kernel, address...), err
}

// uninstallLimited does so in a process with the one capability that
// manifests/uninstall gives it.
func uninstallLimited(t *testing.T, bpffs string) []string {
	t.Helper()
	input, err := json.Marshal(bpffs)
	check(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "setpriv", "--bounding-set", "-all,+net_admin", "--", lab.Program())
	cmd.Env = lab.TaskEnvironment("uninstall")
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	var names []string
	check(t, json.Unmarshal(stdout.Bytes(), &names))
	return names
}

// attachedAt returns how many programs are attached at the cgroup, and at the
// node's ends of pods' links.
func attachedAt(t *testing.T, cgroup string) int {
	t.Helper()
	dir, err := os.Open(cgroup)
	check(t, err)
	defer dir.Close()
	count := 0
	query := func(o link.QueryOptions) {
		result, err := link.QueryPrograms(o)
		if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EINVAL) {
			return // this kernel has no such hook, so nothing is attached there
		}
		check(t, err)
		count += len(result.Programs)
	}
	for _, at := range []ebpf.AttachType{
		ebpf.AttachCGroupSockOps, ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
		ebpf.AttachCGroupInet4Bind, ebpf.AttachCGroupInet6Bind, ebpf.AttachCGroupInet4Connect,
		ebpf.AttachCGroupInet6Connect, ebpf.AttachCGroupInetEgress,
		ebpf.AttachCGroupInetIngress, ebpf.AttachCgroupInetSockRelease,
	} {
		query(link.QueryOptions{Target: int(dir.Fd()), Attach: at})
	}
	links, err := netlink.LinkList()
	check(t, err)
	for _, l := range links {
		query(link.QueryOptions{Target: l.Attrs().Index, Attach: ebpf.AttachTCXIngress})
		filters, err := netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS)
		check(t, err)
		count += len(filters)
	}
	return count
}

// A stopped agent stays closed; uninstall opens, and leaves nothing.
func TestUninstall(t *testing.T) {
	n := newNode(t, options{})
	p, host := n.pod(t, steer, lab.PodOptions{}), n.pod(t, steer, lab.PodOptions{HostNetwork: true})
	eventually(t, "a guarded link", func() bool { return guardsAt(t, n) > 0 })
	if listens, err := delivery.NodeListening(nodeListener); err != nil || !listens {
		t.Errorf("while the agent runs its listener is not seen: %v, %v", listens, err)
	}
	n.stop()
	if listens, err := delivery.NodeListening(nodeListener); err != nil || listens {
		t.Errorf("after the agent's end a listener is seen: %v, %v", listens, err)
	}
	for _, pod := range []*lab.Pod{p, host} {
		refused(t, "agent stopped", dialFrom(t, pod, dialing{To: imds}))
	}
	check(t, n.hooks.Close())
	if attachedAt(t, n.Kubepods) < 12 {
		t.Fatalf("%d programs attached, want eleven and a link's guard", attachedAt(t, n.Kubepods))
	}
	if attachedAt(t, lab.OwnCgroup()) == 0 {
		t.Fatal("nothing is attached at the agent's own cgroup")
	}

	names := uninstallLimited(t, n.BPFFS)
	for _, want := range []string{"link_connect4", "link_egress", "sidestep_verdicts", "169.254.169.252/32"} {
		if !strings.Contains(strings.Join(names, "\n"), want) {
			t.Errorf("removed %q: no %s", names, want)
		}
	}
	// The kernel detaches a link some time after its last pin is gone.
	eventually(t, "nothing is attached", func() bool {
		return attachedAt(t, n.Kubepods) == 0 && attachedAt(t, lab.OwnCgroup()) == 0
	})
	if _, err := os.Stat(filepath.Join(n.BPFFS, intercept.PinDirectory)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the pin directory: %v", err)
	}
	for _, pod := range []*lab.Pod{p, host} {
		if got := dialFrom(t, pod, dialing{To: imds}); got.Answer.UID != "imds" {
			t.Errorf("after uninstall: %+v, want the metadata service", got)
		}
	}
	if again := uninstallLimited(t, n.BPFFS); len(again) != 0 {
		t.Errorf("removed a second time: %q", again)
	}
}

// guardsAt returns how many links the agent guards.
func guardsAt(t *testing.T, n *node) int {
	t.Helper()
	guarded, err := n.hooks.GuardedLinks()
	check(t, err)
	return len(guarded)
}

// Of what is left some may be gone, and some of another version.
func TestUninstallOfWhatIsLeft(t *testing.T) {
	n := newNode(t, options{})
	n.pod(t, steer, lab.PodOptions{})
	n.stop()
	check(t, n.hooks.Close())
	pins := filepath.Join(n.BPFFS, intercept.PinDirectory)
	check(t, os.Remove(filepath.Join(pins, "link_connect4")))
	check(t, os.Remove(filepath.Join(pins, "sidestep_flows")))
	check(t, pinOtherLayout(filepath.Join(pins, "sidestep_flows")))
	check(t, os.Mkdir(filepath.Join(pins, "other"), 0o700))
	check(t, pinOtherLayout(filepath.Join(pins, "other", "map")))
	all, err := leftovers(n.BPFFS)
	check(t, err)
	check(t, os.Remove(filepath.Join(pins, "link_connect6"))) // since it was listed
	for _, l := range all {
		if err := l.Remove(); err != nil {
			t.Errorf("%s: %v", l.What, err)
		}
	}
	eventually(t, "nothing is attached", func() bool { return attachedAt(t, n.Kubepods) == 0 })
	if _, err := os.Stat(pins); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the pin directory: %v", err)
	}
	names, err := uninstall(t.TempDir())
	if !errors.Is(err, intercept.ErrNoBPFFS) {
		t.Errorf("elsewhere than in a BPF filesystem: %v, %v", names, err)
	}
}

// Of the filters at a link ours is removed, and no other.
func TestUninstallOfFilters(t *testing.T) {
	n := newNode(t, options{guard: guardOff})
	p := n.pod(t, pass, lab.PodOptions{})
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}, // TC_ACT_UNSPEC
	})
	check(t, err)
	defer program.Close()
	ifindex := p.NodeLink.Index
	check(t, netlink.QdiscAdd(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}))
	for name, handle := range map[string]uint32{"sidestep_link": 0x51de, "others": 1} {
		check(t, netlink.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: ifindex, Parent: netlink.HANDLE_MIN_INGRESS, Handle: handle, Priority: 1, Protocol: unix.ETH_P_ALL,
			},
			Fd: program.FD(), Name: name, DirectAction: true,
		}))
	}
	n.stop()
	names, err := uninstall(n.BPFFS)
	check(t, err)
	if !strings.Contains(strings.Join(names, "\n"), "tc filter sidestep_link of link") {
		t.Errorf("removed %q, no filter among them", names)
	}
	filters, err := netlink.FilterList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}, netlink.HANDLE_MIN_INGRESS)
	check(t, err)
	var left []string
	for _, f := range filters {
		if bpf, ok := f.(*netlink.BpfFilter); ok && bpf.Handle != 0 {
			left = append(left, bpf.Name)
		}
	}
	if len(left) != 1 || left[0] != "others" {
		t.Errorf("left are %q, want others", left)
	}
}
