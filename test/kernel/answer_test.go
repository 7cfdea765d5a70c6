package kernel

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// answer says to an accepted connection whose it is, unless a test has put
// something else in its place.
func (n *node) answer(c net.Conn, cookie uint64) {
	if instead := n.instead.Load(); instead != nil {
		instead(c, cookie)
		return
	}
	n.answerItself(c, cookie)
}

// keepFirst leaves the first connection that comes without an answer, and its
// flow unclaimed, until release is called.
func (n *node) keepFirst() (release func()) {
	kept := make(chan struct{})
	var first sync.Once
	n.instead.Store(func(c net.Conn, cookie uint64) {
		answer := true
		first.Do(func() { answer = false })
		if answer {
			n.answerItself(c, cookie)
			return
		}
		<-kept
		c.Close()
	})
	return sync.OnceFunc(func() { close(kept) })
}

func (n *node) answerItself(c net.Conn, cookie uint64) { n.answerAfter(c, cookie, func() {}) }

// answerAfter has something happen between the proof and the second look, as
// long as an exchange of tokens would take.
func (n *node) answerAfter(c net.Conn, cookie uint64, meanwhile func()) {
	defer c.Close()
	var a answer
	caller, err := n.prove(c, cookie)
	if err == nil {
		meanwhile()
		_, _, err = n.attester.Current(caller)
	}
	if err == nil {
		a.UID, a.Container = caller.PodUID, caller.ContainerID
	} else {
		a.Err = err.Error()
	}
	json.NewEncoder(c).Encode(a)
	// To close with something unread would reset the connection.
	if tcp, ok := c.(*net.TCPConn); ok && tcp.CloseWrite() == nil {
		c.SetReadDeadline(time.Now().Add(time.Second))
		io.Copy(io.Discard, c)
	}
}

func (n *node) prove(c net.Conn, cookie uint64) (workload.Caller, error) {
	connection, err := n.attester.Inspect(c, cookie)
	if err != nil {
		return workload.Caller{}, err
	}
	caller, verdict, err := n.attester.Attest(connection)
	if err == nil && verdict == workload.Unknown {
		_, err = n.attester.Await(context.Background(), connection, caller)
	}
	if readable, why := n.delivery.Readable(connection); err == nil && readable {
		return caller, errors.New(why)
	}
	return caller, err
}

// atomicServe is a serve function that tests exchange while it runs.
type atomicServe struct {
	p atomic.Pointer[func(net.Conn, uint64)]
}

func (a *atomicServe) Store(f func(net.Conn, uint64)) { a.p.Store(&f) }

func (a *atomicServe) Load() func(net.Conn, uint64) {
	if f := a.p.Load(); f != nil {
		return *f
	}
	return nil
}

// serve has each connection to the address answered, until the test ends.
func (n *node) serve(t *testing.T, at netip.AddrPort, answer func(net.Conn)) {
	t.Helper()
	l, err := net.Listen("tcp4", at.String())
	check(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answer(c)
		}
	}()
}

// answerAsIMDS answers at once, and again for each line that it is sent.
func answerAsIMDS(c net.Conn) {
	defer c.Close()
	for lines := bufio.NewScanner(c); ; {
		json.NewEncoder(c).Encode(answer{UID: "imds"})
		if !lines.Scan() {
			return
		}
	}
}

// nodeListenerOther is a place on the node without a purpose.
var nodeListenerOther = netip.AddrPortFrom(nodeListener.Addr(), 8080)

// listenElsewhere accepts connections there and says nothing.
func (n *node) listenElsewhere(t *testing.T) {
	t.Helper()
	n.serve(t, nodeListenerOther, func(c net.Conn) { t.Cleanup(func() { c.Close() }) })
}
