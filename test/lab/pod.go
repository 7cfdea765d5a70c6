package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// podNumber numbers the pods of all nodes, since they share a namespace.
var podNumber atomic.Uint32

// PodOptions say what a pod is like; the zero value is an ordinary one.
type PodOptions struct {
	UID         string // made up if empty
	HostNetwork bool
	// QoS is the cgroup below kubepods: "burstable" if empty; "guaranteed"
	// pods have none.
	QoS string
	// Slot gives the pod an address that pods of the same slot had before it;
	// 0 gives it a new one.
	Slot uint32
	// User owns the sandbox's process; 0 is root.
	User uint32
	// UserNamespace puts the pod's processes in a user namespace, which owns
	// its network namespace (hostUsers: false).
	UserNamespace bool
	// Capabilities are those that processes started in the pod have, no more
	// and no fewer, by their names without CAP_; nil: all.
	Capabilities []string
}

// Pod is a sandbox: a cgroup with a container in it, and a network namespace
// held by a process, as the kubelet and a runtime would make them.
type Pod struct {
	UID         string
	ContainerID string // the application's
	Cgroup      string
	Container   string // its cgroup
	Sandbox     string // the cgroup of the process that holds the namespace
	Address     net.IP // nil with HostNetwork
	// NodeLink is the node's end of the pod's link; zero with HostNetwork.
	NodeLink netlink.LinkAttrs

	pause        *exec.Cmd
	netns        string
	userns       string // empty: the node's
	capabilities []string
}

// StartPod makes a pod and connects it to the node by a veth pair; the node is
// its default route.
func (n *Node) StartPod(o PodOptions) (*Pod, error) {
	number := podNumber.Add(1)
	p := newPod(n, o, number)
	for _, dir := range []string{p.Container, p.Sandbox} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if err := p.startPause(o); err != nil {
		return nil, err
	}
	if o.HostNetwork {
		return p, nil
	}
	p.netns = fmt.Sprintf("/proc/%d/ns/net", p.pause.Process.Pid)
	if o.UserNamespace {
		p.userns = fmt.Sprintf("/proc/%d/ns/user", p.pause.Process.Pid)
	}
	if err := p.connect(number, o.Slot); err != nil {
		return nil, errors.Join(fmt.Errorf("connect pod %s: %w", p.UID, err), p.Stop())
	}
	return p, nil
}

func newPod(n *Node, o PodOptions, number uint32) *Pod {
	p := &Pod{
		UID: o.UID, ContainerID: hexID(number, 'c'), netns: "/proc/thread-self/ns/net", capabilities: o.Capabilities,
	}
	if p.UID == "" {
		p.UID = fmt.Sprintf("00000000-0000-4000-8000-%012x", number)
	}
	parent := filepath.Join(n.Kubepods, "burstable")
	switch o.QoS {
	case "":
	case "guaranteed":
		parent = n.Kubepods
	default:
		parent = filepath.Join(n.Kubepods, o.QoS)
	}
	p.Cgroup = filepath.Join(parent, "pod"+p.UID)
	p.Container = filepath.Join(p.Cgroup, p.ContainerID)
	p.Sandbox = filepath.Join(p.Cgroup, hexID(number, 'f'))
	return p
}

func hexID(number uint32, fill rune) string {
	return fmt.Sprintf("%08x", number) + strings.Repeat(string(fill), 56)
}

// startPause starts the process that holds the sandbox's namespace.
func (p *Pod) startPause(o PodOptions) error {
	dir, err := os.Open(p.Sandbox)
	if err != nil {
		return err
	}
	defer dir.Close()
	p.pause = exec.CommandContext(context.Background(), "sleep", "infinity")
	p.pause.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if !o.HostNetwork {
		p.pause.SysProcAttr.Cloneflags = unix.CLONE_NEWNET
	}
	if o.UserNamespace {
		ownUserNamespace(p.pause.SysProcAttr)
	}
	if o.User != 0 {
		p.pause.SysProcAttr.Credential = &syscall.Credential{Uid: o.User, Gid: o.User}
	}
	return p.pause.Start()
}

// Start starts cmd as a process of the pod's container: in its cgroup and in
// its network namespace. It refuses with ErrNotIsolated, before anything
// runs, where the metadata service's address might lead out of the lab.
func (p *Pod) Start(cmd *exec.Cmd) error {
	return p.StartIn(p.Container, cmd)
}

// StartIn is Start with another cgroup.
func (p *Pod) StartIn(cgroup string, cmd *exec.Cmd) error {
	if err := CheckIsolated(p.netns, "/proc/thread-self/ns/net"); err != nil {
		return err
	}
	dir, err := os.Open(cgroup)
	if err != nil {
		return err
	}
	defer dir.Close()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD = true
	cmd.SysProcAttr.CgroupFD = int(dir.Fd())
	before, err := limitTo(p.capabilities)
	if err != nil {
		return err
	}
	if p.userns != "" {
		program, err := enterUserNamespace(cmd, p.userns, before)
		if err != nil {
			return err
		}
		defer program.Close()
	} else if before != nil {
		cmd.Args = slices.Concat(before, []string{cmd.Path}, cmd.Args[1:])
		cmd.Path = before[0]
	}
	return inNetns(p.netns, cmd.Start)
}

// Output runs a program in the pod's container and returns what it printed.
func (p *Pod) Output(ctx context.Context, env []string, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = env
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := p.Start(cmd); err != nil {
		return nil, err
	}
	if err := cmd.Wait(); err != nil {
		return []byte(out.String()), fmt.Errorf("%s: %w: %s", filepath.Base(name), err, strings.TrimSpace(errs.String()))
	}
	return []byte(out.String()), nil
}

// RestartSandbox ends the process that holds the pod's namespace and starts
// another, in a new namespace and a new cgroup of the same pod, as the kubelet
// does when a sandbox dies.
func (p *Pod) RestartSandbox() error {
	if err := killCgroup(p.Sandbox); err != nil {
		return err
	}
	_ = p.pause.Wait() // killed
	if err := removeCgroups(p.Sandbox); err != nil {
		return err
	}
	number := podNumber.Add(1)
	p.Sandbox = filepath.Join(p.Cgroup, hexID(number, 'f'))
	if err := os.Mkdir(p.Sandbox, 0o755); err != nil {
		return err
	}
	if err := p.startPause(PodOptions{}); err != nil {
		return err
	}
	p.netns = fmt.Sprintf("/proc/%d/ns/net", p.pause.Process.Pid)
	return p.connect(number, 0)
}

// Stop kills the pod's processes and removes its cgroup, and with them its
// namespace.
func (p *Pod) Stop() error {
	if err := killCgroup(p.Cgroup); err != nil {
		return err
	}
	_ = p.pause.Wait() // killed
	return removeCgroups(p.Cgroup)
}
