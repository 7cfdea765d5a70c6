package delivery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// errNodeOnly says why a pod's namespace is not entered.
var errNodeOnly = errors.New("with node delivery the agent does not enter pods' network namespaces")

// Dial connects to an IPv4 address and port from the network namespace of the
// caller's pod, so that whatever the platform drops of that pod's packets is
// dropped of these. It waits until the second line lets the pod send, and fails
// if that does not come before ctx ends; also for a pod whose namespace is not
// known, and with node delivery for all but those on the node's network.
func (r *Reconciler) Dial(ctx context.Context, caller workload.Caller, address string) (net.Conn, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil || !at.Addr().Is4() {
		return nil, fmt.Errorf("dial %s: not an IPv4 address and a port", address)
	}
	if err := r.awaitLine(ctx, caller); err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	ns, err := r.namespaceOf(caller)
	if err != nil {
		return nil, fmt.Errorf("dial %s from the pod's network namespace: %w", address, err)
	}
	socket := -1
	open := func() (err error) {
		socket, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return err
	}
	if ns == nil {
		err = open()
	} else {
		err = ns.do(open)
		ns.close()
	}
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	return connect(ctx, socket, at)
}

// awaitLine waits until the second line lets through what the caller's pod may
// send to the metadata service: a first packet that it drops is sent again a
// second later.
func (r *Reconciler) awaitLine(ctx context.Context, caller workload.Caller) error {
	changes, cancel := r.Pods.Subscribe()
	defer cancel()
	for {
		lines := r.guard.lines.next()
		pod, known := r.Pods.Pod(caller.PodUID)
		if !known || pod.HostNetwork || r.guard.lets(pod.UID, workload.PodLink{IMDS: pod.PassesAny()}) {
			return nil
		}
		select {
		case <-lines:
		case <-changes:
		case <-ctx.Done():
			return fmt.Errorf("the second line does not let the pod send: %w", ctx.Err())
		}
	}
}

// namespaceOf opens the network namespace of the caller's pod; nil is the
// node's.
func (r *Reconciler) namespaceOf(caller workload.Caller) (*namespace, error) {
	if pod, _ := r.Pods.Pod(caller.PodUID); pod.HostNetwork {
		return nil, nil
	}
	if r.NodeOnly {
		return nil, errNodeOnly
	}
	for _, cg := range r.Cgroups.Snapshot() {
		if cg.UID == caller.PodUID {
			return r.sandboxes.open(cg.Path)
		}
	}
	return nil, errNoSandbox
}

// connect connects a socket, which belongs to it from then on. That takes no
// thread: only the making of the socket has to be done in the namespace.
func connect(ctx context.Context, socket int, at netip.AddrPort) (net.Conn, error) {
	file := os.NewFile(uintptr(socket), "tcp")
	defer file.Close()
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var begun error
	err = raw.Control(func(fd uintptr) {
		begun = unix.Connect(int(fd), &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()})
	})
	if err = errors.Join(err, begun); errors.Is(err, unix.EINPROGRESS) {
		err = established(ctx, file)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", at, err)
	}
	return net.FileConn(file)
}

// established waits until a connect that is under way has ended, and returns
// how.
func established(ctx context.Context, file *os.File) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = file.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	var ended error
	err = raw.Write(func(fd uintptr) bool {
		var errno int
		if errno, ended = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); ended != nil {
			return true
		}
		if errno != 0 {
			ended = unix.Errno(errno)
			return true
		}
		_, notYet := unix.Getpeername(int(fd))
		return notYet == nil
	})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(err, ended)
}
