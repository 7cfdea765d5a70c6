package kernel

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/test/lab"
)

// anotherLayout is a layout that no agent has.
const anotherLayout = 1000

// otherDir is where an agent of that layout has its pins.
func (n *node) otherDir() string { return filepath.Join(n.pinDir(), "layout-1000") }

// setAside has the agent of now be one of another layout: what it has pinned is
// in that layout's directory, and says so.
func (n *node) setAside(t *testing.T) {
	t.Helper()
	check(t, os.MkdirAll(n.otherDir(), 0o700))
	pins, err := os.ReadDir(n.pinDir())
	check(t, err)
	for _, pin := range pins {
		if !pin.IsDir() && pin.Name() != "sidestep_layout" {
			check(t, os.Rename(filepath.Join(n.pinDir(), pin.Name()), filepath.Join(n.otherDir(), pin.Name())))
		}
	}
	check(t, sayLayout(filepath.Join(n.pinDir(), "sidestep_layout"), anotherLayout))
}

// saysLayout returns which layout the pins call the active one.
func (n *node) saysLayout(t *testing.T) (found uint32) {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(n.pinDir(), "sidestep_layout"), nil)
	check(t, err)
	defer m.Close()
	check(t, m.Lookup(uint32(0), &found))
	return found
}

// successor is an agent of our layout to which the node's, of another, hands
// over: it has the settings and the listeners, and its programs follow. It has
// not set a verdict yet.
type successor struct {
	*node
	run func() // until the node's stop
}

func (n *node) successor(t *testing.T) *successor {
	t.Helper()
	n.rest()
	check(t, n.hooks.Detach())
	n.setAside(t)
	next := &node{Node: n.Node, settings: n.settings, tree: n.tree, pods: n.pods, options: n.options}
	var err error
	next.hooks, err = intercept.Load(n.BPFFS, quiet())
	check(t, err)
	t.Cleanup(func() { next.hooks.Close() })
	next.attester = next.newAttester()
	next.delivery, err = delivery.NewReconciler(delivery.Options{
		Kernel: next.hooks, Pods: n.pods, Cgroups: n.tree, Serve: next.answer,
		Proc: "/proc", Ports: ports, NodeOnly: n.options.nodeOnly, Log: quiet(), GuardLinks: true,
	})
	check(t, err)
	check(t, next.hooks.Configure(next.settings))
	check(t, next.hooks.AttachOwn(lab.OwnCgroup()))
	check(t, next.hooks.Attach(n.Kubepods, true))
	var theirs []delivery.ExportedListener
	for _, l := range n.delivery.Export() {
		l.Listener = copyOf(t, l.Listener)
		theirs = append(theirs, l)
	}
	next.delivery.Adopt(theirs)
	t.Cleanup(next.delivery.Close)
	return &successor{node: next, run: func() {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- next.delivery.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			check(t, <-ended)
		})
	}}
}

// copyOf returns the listener with a descriptor of its own.
func copyOf(t *testing.T, l net.Listener) net.Listener {
	t.Helper()
	raw, err := l.(syscall.Conn).SyscallConn()
	check(t, err)
	fd := -1
	var dup error
	check(t, raw.Control(func(from uintptr) { fd, dup = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0) }))
	check(t, dup)
	file := os.NewFile(uintptr(fd), "a listener's copy")
	defer file.Close()
	tcp, err := net.FileListener(file)
	check(t, err)
	return tcp
}

// many has the pod make connections one after the other until the function is
// called, which returns how many of them ended how.
func many(t *testing.T, p *lab.Pod) (end func() map[string]int) {
	t.Helper()
	all := map[string]int{}
	ended := make(chan struct{})
	var group errgroup.Group
	group.Go(func() error {
		for {
			select {
			case <-ended:
				return nil
			default:
			}
			got, err := lab.Run[dialings, map[string]int](t.Context(), p, "dialings", dialings{dialing{To: imds}, 20})
			if err != nil {
				return err
			}
			for how, n := range got {
				all[how] += n
			}
		}
	})
	return func() map[string]int {
		close(ended)
		check(t, group.Wait())
		return all
	}
}

// dialings has a process dial so often, one time after the other.
type dialings struct {
	Dialing dialing
	Times   int
}

func init() { lab.Register("dialings", dialAgain) }

// dialAgain counts how the connections ended: with whose answer, or which error.
func dialAgain(d dialings) (map[string]int, error) {
	all := map[string]int{}
	for range d.Times {
		got, err := dial(d.Dialing)
		switch {
		case err != nil:
			all[err.Error()]++
		case got.Errno != 0:
			all[unix.ErrnoName(got.Errno)]++
		default:
			all[got.Answer.UID+got.Answer.Err]++
		}
	}
	return all, nil
}

// only fails unless every connection ended in that way.
func only(t *testing.T, what string, got map[string]int, want string) {
	t.Helper()
	if len(got) != 1 || got[want] == 0 {
		t.Errorf("%s: %v, want %q alone", what, got, want)
	}
}

// Programs of another layout are replaced without a moment in which a steered
// pod is refused or passes, or a denied one passes; before there are verdicts
// they decide themselves. Connections that they have steered live on.
func TestAnotherLayoutIsTakenOver(t *testing.T) {
	n := newNode(t, options{})
	steered, denied, passing := n.pod(t, steer, lab.PodOptions{}), n.pod(t, deny, lab.PodOptions{}), n.pod(t, pass, lab.PodOptions{})
	waiting := make(chan func(serve func(net.Conn, uint64)), 1)
	var first sync.Once
	n.instead.Store(func(c net.Conn, cookie uint64) {
		kept := false
		first.Do(func() { kept = true; waiting <- func(serve func(net.Conn, uint64)) { serve(c, cookie) } })
		if !kept {
			n.answerItself(c, cookie)
		}
	})
	var open errgroup.Group
	var answered dialed
	open.Go(func() (err error) {
		answered, err = lab.Run[dialing, dialed](t.Context(), steered, "dial", dialing{To: imds})
		return err
	})
	serve := <-waiting
	ends := map[string]func() map[string]int{
		steered.UID: many(t, steered), "EPERM": many(t, denied), "imds": many(t, passing),
	}
	next := n.successor(t)
	if next.hooks.Active() || n.saysLayout(t) != anotherLayout {
		t.Error("this layout is active without a verdict")
	}
	next.run()
	<-next.delivery.Decided()
	n.stop() // as an agent that has handed over closes its listeners
	next.hooks.Filled()
	check(t, next.hooks.Attach(n.Kubepods, true))
	for range 20 {
		next.delivery.Trigger()
		check(t, next.hooks.Attach(n.Kubepods, true))
	}
	if !next.hooks.Active() || n.saysLayout(t) == anotherLayout {
		t.Error("the other layout is active still")
	}
	for want, end := range ends {
		only(t, "while layouts change", end(), want)
	}
	serve(next.answerItself)
	check(t, open.Wait())
	if answered.Answer.UID != steered.UID || answered.Peer != imds.String() {
		t.Errorf("a connection of before is answered %+v, want pod %s", answered, steered.UID)
	}
	for _, pin := range []string{"link_connect4", "link_connect6", "link_egress", "link_bind4", "link_bind6"} {
		if _, err := os.Stat(filepath.Join(n.otherDir(), pin)); err == nil {
			t.Errorf("%s is the other layout's still", pin)
		}
	}
}

// An agent that starts where none of another layout runs leaves that one's
// programs as they are until it knows all pods, and a pod that has no object any
// more is held as before. When no connection is left, the other's pins go.
func TestAnotherLayoutOfADeadAgent(t *testing.T) {
	n := newNode(t, options{})
	steered, denied, passing := n.pod(t, steer, lab.PodOptions{}), n.pod(t, deny, lab.PodOptions{}), n.pod(t, pass, lab.PodOptions{})
	orphan := n.pod(t, steer, lab.PodOptions{HostNetwork: true})
	if got := dialFrom(t, steered, dialing{To: imds}); got.Answer.UID != steered.UID {
		t.Fatalf("%+v, want pod %s", got, steered.UID)
	}
	n.stop()
	n.pods.remove(orphan.UID)
	check(t, n.hooks.Close())
	n.setAside(t)
	n.options.settings = func(s *intercept.Settings) { s.UnknownPass, s.UnknownHostNetworkPass = true, true }
	n.startAgain(t)
	refused(t, "a steered pod, before the change", dialFrom(t, steered, dialing{To: imds}))
	<-n.delivery.Decided()
	n.hooks.Filled()
	check(t, n.hooks.Attach(n.Kubepods, true))
	if got := dialFrom(t, steered, dialing{To: imds}); got.Answer.UID != steered.UID {
		t.Errorf("a steered pod: %+v", got)
	}
	refused(t, "a denied pod", dialFrom(t, denied, dialing{To: imds}))
	if got := dialFrom(t, passing, dialing{To: imds}); got.Answer.UID != "imds" {
		t.Errorf("a pod that passes: %+v", got)
	}
	if got := dialFrom(t, orphan, dialing{To: imds}); got.Answer.UID != "" {
		t.Errorf("a pod without an object: %+v", got)
	}
	n.delivery.Trigger()
	eventually(t, "the guards of links are ours", func() bool {
		left, err := filepath.Glob(filepath.Join(n.otherDir(), "tcx_*"))
		check(t, err)
		return len(left) == 0
	})
	exists := func(uint64) bool { return true }
	check(t, n.hooks.RemoveDrained(exists))
	if _, err := os.Stat(n.otherDir()); err != nil {
		t.Error("the other layout's pins are removed at the first look")
	}
	check(t, n.hooks.RemoveDrained(exists))
	if _, err := os.Stat(n.otherDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the other layout's pins are there still: %v", err)
	}
	if got := dialFrom(t, steered, dialing{To: imds}); got.Answer.UID != steered.UID {
		t.Errorf("a steered pod, after the removal: %+v", got)
	}
}

// While a connection that another layout's programs have steered is open, they
// stay.
func TestAnotherLayoutStaysWhileItHasConnections(t *testing.T) {
	n := newNode(t, options{})
	p := n.pod(t, steer, lab.PodOptions{})
	release := n.keepFirst()
	defer release()
	var client errgroup.Group
	client.Go(func() error {
		_, err := lab.Run[dialing, dialed](t.Context(), p, "dial", dialing{To: imds})
		if err != nil && strings.Contains(err.Error(), "unexpected EOF") {
			return nil // it is closed without an answer
		}
		return err
	})
	eventually(t, "there is a flow", func() bool { return n.flows(t) == 1 })
	next := n.successor(t)
	next.run()
	<-next.delivery.Decided()
	next.hooks.Filled()
	check(t, next.hooks.Attach(n.Kubepods, true))
	next.delivery.Trigger()
	eventually(t, "the guards of links are ours", func() bool {
		left, err := filepath.Glob(filepath.Join(n.otherDir(), "tcx_*"))
		check(t, err)
		return len(left) == 0
	})
	exists := func(uint64) bool { return true }
	for range 3 {
		check(t, next.hooks.RemoveDrained(exists))
	}
	if _, err := os.Stat(filepath.Join(n.otherDir(), "link_sockops")); err != nil {
		t.Fatalf("the programs of a connection that is open are gone: %v", err)
	}
	release()
	check(t, client.Wait())
	eventually(t, "they go when it has ended", func() bool {
		check(t, next.hooks.RemoveDrained(exists))
		_, err := os.Stat(n.otherDir())
		return errors.Is(err, os.ErrNotExist)
	})
}

// A connection that somebody else has answered, and that another layout's
// programs have steered, stays without payload when ours take their place.
func TestAnotherLayoutsGateHolds(t *testing.T) {
	n, victim, impostor := hostPortNode(t, options{nodeOnly: true}, steer)
	signs := t.TempDir()
	later := requestingLater{filepath.Join(signs, "connected"), filepath.Join(signs, "send")}
	var client errgroup.Group
	client.Go(func() error {
		got, err := lab.Run[requestingLater, conversed](t.Context(), victim, "request later", later)
		if err == nil && (got.Answer.UID != "" || got.Errno == 0 && !got.Closed) {
			t.Errorf("the client got %+v, want an error", got)
		}
		return err
	})
	await := func(path string) {
		eventually(t, path, func() bool {
			_, err := os.Stat(path)
			return err == nil
		})
	}
	await(later.Connected)
	next := n.successor(t)
	next.run()
	<-next.delivery.Decided()
	next.hooks.Filled()
	check(t, next.hooks.Attach(n.Kubepods, true))
	for range 3 {
		check(t, next.hooks.RemoveDrained(func(uint64) bool { return true }))
	}
	check(t, os.WriteFile(later.Send, nil, 0o600))
	check(t, client.Wait())
	if sent, err := os.ReadFile(impostor.got); err != nil || len(sent) > 0 {
		t.Errorf("the impostor has %q, %v", sent, err)
	}
}

// requestingLater names the files by which a client that has connected says so,
// and by which it is told to send its request.
type requestingLater struct{ Connected, Send string }

func init() { lab.Register("request later", requestLater) }

// requestLater connects to the metadata service and sends a request once it is
// told to.
func requestLater(r requestingLater) (c conversed, err error) {
	d := dialing{To: imds}
	fd, err := d.socket()
	if err != nil {
		return c, err
	}
	defer unix.Close(fd)
	if err := d.connect(fd); err != nil {
		return c, err
	}
	if err := os.WriteFile(r.Connected, nil, 0o600); err != nil {
		return c, err
	}
	for _, err := os.Stat(r.Send); err != nil; _, err = os.Stat(r.Send) {
		time.Sleep(time.Millisecond)
	}
	if _, err = unix.Write(fd, []byte(request)); err == nil {
		c.Answer, err = read(fd)
	}
	if !errors.As(err, &c.Errno) {
		c.Closed = err != nil
	}
	return c, nil
}

// Where programs of another layout are not all there, ours take their place at
// once, with every pod held that has no verdict yet.
func TestAnotherLayoutThatIsIncomplete(t *testing.T) {
	n := newNode(t, options{guard: guardSocket})
	denied := n.pod(t, deny, lab.PodOptions{})
	n.stop()
	check(t, n.hooks.Close())
	n.detachLink(t, "link_connect4")
	n.setAside(t)
	h, err := intercept.Load(n.BPFFS, quiet())
	check(t, err)
	defer h.Close()
	check(t, h.Configure(n.settings))
	check(t, h.Attach(n.Kubepods, true))
	if !h.Active() {
		t.Error("the other layout is active still")
	}
	for _, mapped := range []bool{false, true} {
		if got := dialFrom(t, denied, dialing{To: imds, Mapped: mapped}); got.Errno == 0 {
			t.Errorf("mapped %v: %+v, want a refusal", mapped, got)
		}
	}
}

// Records of two layouts on one connection that do not agree prove nothing.
func TestRecordsOfTwoLayouts(t *testing.T) {
	n := newNode(t, options{guard: guardSocket})
	p := n.pod(t, steer, lab.PodOptions{})
	next := n.successor(t)
	n.instead.Store(func(c net.Conn, cookie uint64) { // the old agent's record is copied, for another cgroup
		copyRecord(t, n.otherDir(), n.pinDir(), 1)
		next.answerItself(c, cookie)
	})
	next.instead.Store(n.instead.Load())
	got := dialFrom(t, p, dialing{To: imds})
	if got.Answer.UID != "" || !strings.Contains(got.Answer.Err, "two sockets") {
		t.Errorf("%+v, want a refusal of an ambiguous connection", got)
	}
}

// copyRecord writes the one flow that is pinned in a directory into the flows of
// another, for another cgroup.
func copyRecord(t *testing.T, from, to string, cgroupID byte) {
	t.Helper()
	theirs, err := ebpf.LoadPinnedMap(filepath.Join(from, "sidestep_flows"), nil)
	check(t, err)
	defer theirs.Close()
	ours, err := ebpf.LoadPinnedMap(filepath.Join(to, "sidestep_flows"), nil)
	check(t, err)
	defer ours.Close()
	var key, value []byte
	entries := theirs.Iterate()
	if !entries.Next(&key, &value) {
		t.Error("no flow to copy")
		return
	}
	value[0] ^= cgroupID
	check(t, ours.Update(key, value, ebpf.UpdateAny))
}

// An agent of before layouts had directories refuses to start where programs of
// another layout decide; this one says which is active.
func TestActiveLayoutIsNamed(t *testing.T) {
	n := newNode(t, options{guard: guardOff})
	n.pod(t, steer, lab.PodOptions{})
	n.stop()
	check(t, n.hooks.Close())
	n.setAside(t)
	h, err := intercept.Load(n.BPFFS, quiet())
	check(t, err)
	check(t, h.Close())
	if got := n.saysLayout(t); got != anotherLayout {
		t.Errorf("a load says that layout %d is active, want %d", got, anotherLayout)
	}
}
