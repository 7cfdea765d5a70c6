package intercept

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ownLink returns the index of a veth link's end in a network namespace of the
// test's own, in which its thread stays until the test ends.
func ownLink(t *testing.T) int {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "one"}, PeerName: "two"}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	return veth.Index
}

// The guard of kernels before tcx is put back, too, if others remove it, and
// distinguished from theirs.
func TestFilterIsKept(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: tc filters")
	}
	ifindex := ownLink(t)
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	h := &Hooks{filters: make(map[int]bool), counters: counters{repairs: newRepairs()}}
	h.objects.SidestepLink = program
	repairs := func() float64 {
		return testutil.ToFloat64(h.repairs.total.WithLabelValues(linkObject, string(detached)))
	}
	for range 2 {
		if err := h.keepFilter(ifindex); err != nil || repairs() != 0 {
			t.Fatalf("%v, %v repairs", err, repairs())
		}
	}
	if err := detachFilter(ifindex); err != nil {
		t.Fatal(err)
	}
	if err := h.keepFilter(ifindex); err != nil || repairs() != 1 {
		t.Fatalf("%v, %v repairs, want one", err, repairs())
	}
	if there, err := hasFilter(ifindex); err != nil || !there {
		t.Errorf("our filter is there: %t, %v", there, err)
	}
	// Another's that came later, and runs first: only its owner can fix that.
	anothers := filterAttrs(ifindex)
	anothers.Handle++
	if err := netlink.FilterReplace(&netlink.BpfFilter{FilterAttrs: anothers, Fd: program.FD(), Name: "anothers", DirectAction: true}); err != nil {
		t.Fatal(err)
	}
	if err := h.keepFilter(ifindex); !errors.Is(err, ErrBehindAnother) {
		t.Errorf("%v, want ErrBehindAnother", err)
	}
}

func TestAttachTypeOfLinks(t *testing.T) {
	for _, l := range []netlink.Link{&netlink.Veth{}, &netlink.Netkit{}} { // the second is not the primary end
		if got := attachTypeOf(l); got != ebpf.AttachTCXIngress {
			t.Errorf("%s: %s", l.Type(), got)
		}
	}
}
