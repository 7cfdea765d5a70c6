package delivery

import (
	"errors"
	"log/slog"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// ExportedListener is a pod's open listener as one agent passes it to the next.
type ExportedListener struct {
	PodUID string
	Inode  uint64 // of its network namespace; 0: the pod is on the host's network
	net.Listener
}

// Export returns the listeners that are open, for another agent's Adopt. They
// stay the Reconciler's, which must not run meanwhile.
func (r *Reconciler) Export() []ExportedListener {
	all := make([]ExportedListener, 0, len(r.listeners))
	for uid, l := range r.listeners {
		all = append(all, ExportedListener{PodUID: uid, Inode: l.inode, Listener: l.Listener})
	}
	return all
}

// Adopt takes over listeners that another agent opened and tagged, and starts
// to accept; those that this one would not have opened are closed. It is
// called before Run, which closes the listeners of pods that ended meanwhile.
func (r *Reconciler) Adopt(all []ExportedListener) {
	for _, h := range all {
		l, err := adoptListener(r.Kernel, h.Listener)
		if err != nil || r.NodeOnly || l.port() < r.Ports.First || l.port() > r.Ports.Last {
			r.Log.Debug("listener not taken over", "pod_uid", h.PodUID, "err", err)
			h.Close()
			continue
		}
		r.start(h.PodUID, &podListener{listener: l, inode: h.Inode})
	}
}

// AdoptNode takes over the node listener of another agent.
func AdoptNode(kernel Kernel, l net.Listener, log *slog.Logger) (*Node, error) {
	adopted, err := adoptListener(kernel, l)
	if err != nil {
		return nil, err
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	return &Node{kernel: kernel, at: at, cookie: adopted.netnsCookie, listener: adopted, log: log}, nil
}

// adoptListener reads from the socket whose namespace it is of. The agent's
// tag is kept with the socket, whoever has it open; but it is of the former
// agent's map, and this one's is another where the BPF filesystem was mounted
// again in between.
func adoptListener(kernel Kernel, tcp net.Listener) (*listener, error) {
	from, ok := tcp.(*net.TCPListener)
	if !ok {
		return nil, errors.New("not a TCP listener")
	}
	socket, err := from.SyscallConn()
	if err != nil {
		return nil, err
	}
	cookie, err := netnsCookie(socket)
	if err != nil {
		return nil, err
	}
	withoutProbes(from)
	l := &listener{Listener: tcp, netnsCookie: cookie}
	return l, l.tag(kernel)
}

func netnsCookie(socket syscall.RawConn) (cookie uint64, err error) {
	control := socket.Control(func(fd uintptr) {
		cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	})
	return cookie, errors.Join(control, err)
}
