package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
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

const (
	// wayAge is how long it holds what was found out about the way to a pod.
	wayAge = time.Second
	// maxWays bounds the clients that are remembered.
	maxWays = 1024
)

// neighbours tells on which connections to the node another pod could read. On
// a bridge, whoever has NET_RAW answers ARP requests for others' addresses and
// gets what is sent to them; on a link with the pod alone at its other end
// there is no one to read it.
type neighbours struct {
	log *slog.Logger

	mu   sync.Mutex
	ways map[netip.Addr]way   // by client
	seen map[string]time.Time // why connections could be read, and when last
}

// exposedFor is how long a connection that neighbours could read is remembered
// for people to see.
const exposedFor = 10 * time.Minute

// Exposed returns why connections to the node could be read by neighbours of
// those who made them lately. With pod delivery their callers tried again at
// listeners of their own; with node delivery they are not served.
func (r *Reconciler) Exposed() []string {
	n := &r.neighbours
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.DeleteFunc(n.seen, func(_ string, at time.Time) bool { return time.Since(at) > exposedFor })
	return slices.Sorted(maps.Keys(n.seen))
}

// way is what leads from the node to a client.
type way struct {
	at       time.Time
	readable bool
	why      string
}

// Readable reports whether a neighbour of the client could read what is sent to
// it on the connection, and why. Where that cannot be found out, it could.
func (r *Reconciler) Readable(c workload.Connection) (readable bool, why string) {
	if c.NetnsCookie != 0 { // within the pod's own namespace
		return false, ""
	}
	return r.neighbours.readable(c)
}

func (n *neighbours) readable(c workload.Connection) (bool, string) {
	now := time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	if w, ok := n.ways[c.Client.Addr()]; ok && now.Sub(w.at) < wayAge {
		return w.readable, w.why
	}
	w := way{at: now}
	w.readable, w.why = wayTo(c.Client.Addr(), c.Server.Addr())
	if len(n.ways) >= maxWays {
		clear(n.ways)
	}
	n.ways[c.Client.Addr()] = w
	if w.readable {
		n.note(w.why, now)
	}
	return w.readable, w.why
}

// note keeps why a connection could be read, and has the log say so at first.
func (n *neighbours) note(why string, now time.Time) {
	if _, logged := n.seen[why]; !logged {
		if len(n.seen) >= maxWays {
			return
		}
		n.log.Warn("no token is sent to pods on connections that their neighbours can read", "err", why,
			"fix", "have the network plugin give each pod a link of its own; with --delivery=node such pods are not served")
	}
	n.seen[why] = now
}

// wayTo looks at the link over which answers from server go to a client.
func wayTo(client, server netip.Addr) (readable bool, why string) {
	routes, err := netlink.RouteGetWithOptions(client.AsSlice(), &netlink.RouteGetOptions{SrcAddr: server.AsSlice()})
	if err != nil || len(routes) == 0 {
		return true, fmt.Sprintf("the route to %s is not known: %v", client, err)
	}
	if routes[0].Type == unix.RTN_LOCAL { // a pod on the node's network
		return false, ""
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return true, fmt.Sprintf("the link to %s is not known: %v", client, err)
	}
	return linkReadable(link)
}

// linkReadable reports whether more than one pod is behind a link, and may read
// what is for another.
func linkReadable(link netlink.Link) (readable bool, why string) {
	name := link.Attrs().Name
	switch link.Type() {
	case "veth", "netkit":
		// A port of something that the route does not name would be another
		// way than the route's.
		return false, ""
	case "bridge":
		ports, err := portsOf(link.Attrs().Index)
		if err != nil {
			return true, fmt.Sprintf("the ports of bridge %s are not known: %v", name, err)
		}
		if ports <= 1 {
			return false, ""
		}
		return true, fmt.Sprintf("pods share bridge %s", name)
	}
	return true, fmt.Sprintf("link %s (%s) may be shared by several pods", name, link.Type())
}

// portsOf returns how many ports a bridge has. Whether they are isolated does
// not matter (IFLA_BRPORT_ISOLATED): that keeps ports from each other, but none
// from the bridge itself, to whom a neighbour says that it is the other pod.
func portsOf(bridge int) (ports int, err error) {
	links, err := netlink.LinkList()
	for _, l := range links {
		if l.Attrs().MasterIndex == bridge {
			ports++
		}
	}
	return ports, err
}

// AwaitListener waits until connects of the caller's pod go to a listener of
// its own; false if there is none before ctx ends, or will be none at all.
func (r *Reconciler) AwaitListener(ctx context.Context, caller workload.Caller) bool {
	if r.NodeOnly {
		return false
	}
	for {
		opened := r.opened.next()
		r.mu.Lock()
		_, open := r.ports[caller.PodUID]
		r.mu.Unlock()
		if open {
			return true
		}
		select {
		case <-opened:
		case <-ctx.Done():
			return false
		}
	}
}
