package delivery

import (
	"log/slog"
	"net"
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Each pod's listener has a pace of its own, and asks it before each accept:
// what may not come yet stays in the kernel's queue.
func TestListenersKeepTheirPace(t *testing.T) {
	let := make(chan struct{})
	paces, served := 0, make(chan net.Conn)
	k, n := newKernel(), &node{}
	for id, uid := range map[uint64]string{1: "one", 2: "two"} {
		n.run(id, workload.Pod{UID: uid, HostNetwork: true, Decision: steer})
	}
	r := newReconciler(t, k, n, func(o *Options) {
		o.Log = slog.New(slog.DiscardHandler)
		o.Pace = func() func() {
			paces++
			return func() { <-let }
		}
		o.Serve = func(c net.Conn, _ uint64) { served <- c }
	})
	t.Cleanup(func() { close(let) })
	r.reconcile(true)
	if paces != 2 {
		t.Fatalf("%d paces for 2 listeners", paces)
	}
	for range 3 {
		c, err := net.Dial("tcp4", r.listeners["one"].Addr().String()) // in the queue
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	select {
	case <-served:
		t.Fatal("accepted before its turn")
	default:
	}
	for got := 0; got < 3; { // both listeners take turns that they are given
		select {
		case let <- struct{}{}:
		case c := <-served:
			c.Close()
			got++
		}
	}
}
