package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/test/lab"
)

// program is one that can be attached, and where.
type program struct {
	*ebpf.Program
	at ebpf.AttachType
}

// programSet is what is attached together, by the names of hooks.
type programSet map[string]program

// packetGuard is the hook that only --guard=full has.
const packetGuard = "tcx"

// without returns the set but for one hook.
func (s programSet) without(hook string) programSet {
	rest := programSet{}
	for name, p := range s {
		if name != hook {
			rest[name] = p
		}
	}
	return rest
}

// attach attaches the programs at a cgroup and the node's end of a pod's link.
// The function removes them.
func (s programSet) attach(p *lab.Pod, cgroup string) (detach func() error, err error) {
	var links []link.Link
	detach = func() error {
		var errs []error
		for _, l := range links {
			errs = append(errs, l.Close())
		}
		return errors.Join(errs...)
	}
	for hook, program := range s {
		var l link.Link
		if hook == packetGuard {
			l, err = link.AttachTCX(link.TCXOptions{Interface: p.NodeLink.Index, Program: program.Program, Attach: program.at})
		} else {
			l, err = link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: program.at, Program: program.Program})
		}
		if errors.Is(err, ebpf.ErrNotSupported) && hook == packetGuard {
			continue // before Linux 6.6
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("attach %s: %w", hook, err), detach())
		}
		links = append(links, l)
	}
	return detach, nil
}

func (s programSet) close() {
	for _, p := range s {
		_ = p.Close() // gone with the process otherwise
	}
}

// hooks are the attach types of ours, by the names that their pins end in.
var hooks = map[string]ebpf.AttachType{
	"connect4": ebpf.AttachCGroupInet4Connect, "connect6": ebpf.AttachCGroupInet6Connect,
	"getpeername4": ebpf.AttachCgroupInet4GetPeername, "getpeername6": ebpf.AttachCgroupInet6GetPeername,
	"bind4": ebpf.AttachCGroupInet4Bind, "bind6": ebpf.AttachCGroupInet6Bind,
	"sockops": ebpf.AttachCGroupSockOps, "release": ebpf.AttachCgroupInetSockRelease,
	"gate_egress": ebpf.AttachCGroupInetEgress, "gate_ingress": ebpf.AttachCGroupInetIngress,
	"egress": ebpf.AttachCGroupInetEgress, packetGuard: ebpf.AttachTCXIngress,
}

// loadOurs has pkg/intercept load and attach the programs on a node of their
// own, and returns them with nothing attached any more.
func loadOurs(dir string) (_ programSet, err error) {
	n, err := lab.NewNode(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	p, err := n.StartPod(lab.PodOptions{})
	if err != nil {
		return nil, err
	}
	h, err := intercept.Load(n.BPFFS, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	kubepods, errKubepods := lab.CgroupID(n.Kubepods)
	pod, errPod := lab.CgroupID(p.Cgroup)
	err = errors.Join(errKubepods, errPod, h.Configure(intercept.Settings{
		KubepodsID: kubepods, NodeNetns: 1, NodeListener: netip.MustParseAddrPort("169.254.169.252:2579"),
		FirstPort: 28000, LastPort: 29999, Quota: 512,
	}))
	if err == nil {
		err = errors.Join(h.Attach(n.Kubepods, true), h.GuardLink(p.NodeLink.Index, pod))
	}
	if err != nil {
		return nil, err
	}
	return takePinned(filepath.Join(n.BPFFS, intercept.PinDirectory))
}

// takePinned returns the programs of the pinned links, and removes the pins.
func takePinned(dir string) (programSet, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	all := programSet{}
	for _, e := range entries {
		kind, hook, _ := strings.Cut(e.Name(), "_")
		if kind == packetGuard {
			hook = packetGuard
		} else if kind != "link" {
			continue // a map
		}
		l, err := link.LoadPinnedLink(filepath.Join(dir, e.Name()), nil)
		if err != nil {
			return nil, err
		}
		info, err := l.Info()
		if err := errors.Join(err, l.Unpin(), l.Close()); err != nil {
			return nil, err
		}
		p, err := ebpf.NewProgramFromID(info.Program)
		if err != nil {
			return nil, err
		}
		all[hook] = program{p, hooks[hook]}
	}
	return all, nil
}

// loadEmpty returns the minimal programs of the kernel's rows, at each hook at
// which ours are called for a packet or a TCP connect: each lets everything
// through in two instructions. What they cost is what the kernel takes for
// calling a program at all.
func loadEmpty() (programSet, error) {
	all := programSet{}
	for hook, of := range map[string]struct {
		kind    ebpf.ProgramType
		returns int32
	}{
		"connect4": {ebpf.CGroupSockAddr, 1}, "sockops": {ebpf.SockOps, 1}, "release": {ebpf.CGroupSock, 1},
		"gate_egress": {ebpf.CGroupSKB, 1}, "gate_ingress": {ebpf.CGroupSKB, 1}, "egress": {ebpf.CGroupSKB, 1},
		packetGuard: {ebpf.SchedCLS, -1}, // TCX_NEXT
	} {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "empty", Type: of.kind, AttachType: hooks[hook], License: "Dual BSD/GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, of.returns), asm.Return()},
		})
		if err != nil {
			return nil, fmt.Errorf("load an empty program: %w", err)
		}
		all[hook] = program{p, hooks[hook]}
	}
	return all, nil
}
