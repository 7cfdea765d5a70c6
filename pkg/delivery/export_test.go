package delivery

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// What one agent opened the next one serves, at the same port, with no other
// listener opened: it tags those that it got, once more.
func TestListenersAreAdopted(t *testing.T) {
	k, n := newKernel(), &node{}
	n.run(1, workload.Pod{UID: "one", HostNetwork: true, Decision: steer})
	n.run(2, workload.Pod{UID: "ends", HostNetwork: true, Decision: steer})
	before := newReconciler(t, k, n, nil)
	before.reconcile(true)
	entry := k.verdicts[1]
	var exported []ExportedListener
	for _, h := range before.Export() {
		exported = append(exported, ExportedListener{PodUID: h.PodUID, Inode: h.Inode, Listener: copyOf(t, h.Listener)})
	}
	served := make(chan uint64, 1)
	after := newReconciler(t, k, n, func(o *Options) {
		o.Serve = func(c net.Conn, cookie uint64) {
			c.Close()
			served <- cookie
		}
	})
	after.Adopt(exported)
	before.Close()
	n.cgroups = n.cgroups[:1]
	after.reconcile(true)
	if k.tagged != 4 || k.verdicts[1] != entry {
		t.Errorf("%d listeners tagged and %+v applied, want 4 and %+v", k.tagged, k.verdicts[1], entry)
	}
	if _, ok := after.Listeners()["ends"]; ok {
		t.Error("the listener of a pod that ended is kept")
	}
	c, err := net.DialTCP("tcp4", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(entry.Port)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if cookie := <-served; cookie != entry.NetnsCookie {
		t.Errorf("served with cookie %d, want %d", cookie, entry.NetnsCookie)
	}
}

// An agent with other settings closes what it would not have opened.
func TestListenersOutOfPlaceAreNotAdopted(t *testing.T) {
	k, n := newKernel(), &node{}
	n.run(1, workload.Pod{UID: "one", HostNetwork: true, Decision: steer})
	before := newReconciler(t, k, n, nil)
	before.reconcile(true)
	for name, change := range map[string]func(*Options){
		"other ports":   func(o *Options) { o.Ports = PortRange{First: 27000, Last: 27999} },
		"node delivery": func(o *Options) { o.NodeOnly = true },
	} {
		l := copyOf(t, before.Export()[0].Listener)
		after := newReconciler(t, k, n, change)
		after.Adopt([]ExportedListener{{PodUID: "one", Listener: l}})
		if len(after.Listeners()) != 0 {
			t.Errorf("%s: adopted", name)
		}
		if err := l.Close(); err == nil {
			t.Errorf("%s: left open", name)
		}
	}
}

// An adopted listener asks for no keep-alive probes, as one that was opened.
func TestConnectionsAreNotProbed(t *testing.T) {
	opened, err := listen(newKernel(), netip.AddrPortFrom(loopback, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	adopted, err := adoptListener(newKernel(), copyOf(t, opened.Listener))
	if err != nil {
		t.Fatal(err)
	}
	defer adopted.Close()
	for name, l := range map[string]*listener{"opened": opened, "adopted": adopted} {
		client, err := net.Dial("tcp4", opened.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var probed int
		control := raw.Control(func(fd uintptr) {
			probed, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE)
		})
		if probed != 0 || err != nil || control != nil {
			t.Errorf("%s: SO_KEEPALIVE is %d, want 0: %v, %v", name, probed, err, control)
		}
	}
}

// copyOf returns the listener as another process would have it. The listener
// goes on to accept: its mode must not change, as it does for a moment with
// net.FileListener of what the method File returns.
func copyOf(t *testing.T, l net.Listener) net.Listener {
	t.Helper()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var twin int
	control := raw.Control(func(fd uintptr) { twin, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(control, err); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(twin), "copy")
	defer f.Close()
	copied, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	return copied
}
