package delivery

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// startPod starts a process in a network namespace of its own and returns its
// id.
func startPod(t *testing.T) int {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: a network namespace")
	}
	// Pdeathsig fires when the thread that started the process ends, as one does
	// that cannot return to its namespace.
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	pod := exec.Command("sleep", "infinity")
	pod.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := pod.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = pod.Process.Kill()
		_ = pod.Wait()
	})
	return pod.Process.Pid
}

// withoutDescriptors runs fn while this process can open no file.
func withoutDescriptors(t *testing.T, fn func()) {
	t.Helper()
	var had unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &had); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: had.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &had); err != nil {
			t.Fatal(err)
		}
	}()
	fn()
}

// That a pod cannot be looked at, for lack of descriptors, takes neither its
// listener nor the guard of its link away, and is not tried all the time.
func TestWhatIsThereStaysWithoutDescriptors(t *testing.T) {
	pod := startPod(t)
	k, n := newKernel(), &node{pids: map[string][]int{"one": {pod}}}
	n.run(1, workload.Pod{UID: "one", Decision: steer})
	r := newReconciler(t, k, n, func(o *Options) { o.GuardLinks = true })
	r.reconcile(true)
	// Its links cannot be known here, where it has none.
	const link = 7
	r.guard.links["one"] = podLinks{inode: r.listeners["one"].inode, ifindexes: []int{link}}
	k.guarded[link], r.guard.guarded[link] = 1, 1
	before := k.verdicts[1]
	withoutDescriptors(t, func() {
		if soon := max(r.reconcile(true), r.guard.look()); soon != 0 {
			t.Errorf("it is tried again in %s, want with the next thorough look", soon)
		}
	})
	if k.verdicts[1] != before || before.Port == 0 || len(r.Listeners()) != 1 {
		t.Errorf("%+v applied and %d listeners, want %+v and its listener", k.verdicts[1], len(r.Listeners()), before)
	}
	if k.guarded[link] != 1 {
		t.Error("the guard of the pod's link was removed")
	}
}

// A guard of an earlier agent's stays until its pod could be looked at, also
// while looks are made for the sake of others.
func TestAdoptedGuardStaysWithoutDescriptors(t *testing.T) {
	k, n := newKernel(), &node{pids: map[string][]int{"one": {startPod(t)}}}
	n.run(1, workload.Pod{UID: "one", Decision: deny})
	r := newReconciler(t, k, n, func(o *Options) { o.GuardLinks = true })
	const link = 7
	k.guarded[link], r.guard.guarded[link] = 1, 0
	withoutDescriptors(t, func() {
		r.reconcile(true)
		r.guard.look()
	})
	for _, look := range []struct{ thorough, stays bool }{{false, true}, {true, false}} {
		r.reconcile(look.thorough)
		r.guard.look()
		if _, stays := k.guarded[link]; stays != look.stays {
			t.Errorf("thorough %t: the guard is there: %t, want %t", look.thorough, stays, look.stays)
		}
	}
}

// unwilling is a listener that cannot accept for a while.
type unwilling struct {
	net.Listener
	fails int
}

func (u *unwilling) Accept() (net.Conn, error) {
	if u.fails > 0 {
		u.fails--
		return nil, &net.OpError{Op: "accept", Err: unix.EMFILE}
	}
	return u.Listener.Accept()
}

func TestAcceptGoesOnAfterFailures(t *testing.T) {
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	served, ended := make(chan struct{}), make(chan struct{})
	l := &listener{Listener: &unwilling{Listener: tcp, fails: 3}}
	go func() {
		l.accept(func(c net.Conn, _ uint64) {
			c.Close()
			close(served)
		}, 0, nil, slog.New(slog.NewTextHandler(&log, nil)))
		close(ended)
	}()
	c, err := net.Dial("tcp4", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	<-served
	l.Close()
	<-ended
	if n := strings.Count(log.String(), "cannot accept"); n != 1 {
		t.Errorf("logged %d times that it cannot accept, want once:\n%s", n, log.String())
	}
}
