package boot

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/test/lab"
)

var imds = netip.MustParseAddrPort(lab.IMDS + ":80")

// What comes of a connect or a datagram.
const (
	served  = "served"
	sent    = "sent"
	refused = "ECONNREFUSED" // the node listener's address has no listener
	eperm   = "EPERM"        // in connect() or send()
)

// tried is what a process saw.
type tried struct{ Connect, Datagram string }

func init() { lab.Register("dial", dial) }

// dial connects to the metadata service, and sends it a datagram.
func dial(struct{}) (tried, error) {
	connect, err := outcome(connectTo("tcp4"))
	if err != nil {
		return tried{}, err
	}
	datagram, err := outcome(connectTo("udp4"))
	return tried{connect, datagram}, err
}

func connectTo(network string) (string, error) {
	dialer := net.Dialer{Timeout: 10 * time.Second}
	c, err := dialer.DialContext(context.Background(), network, imds.String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	if network == "udp4" {
		_, err := c.Write([]byte("GET\n"))
		return sent, err
	}
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return line[:max(0, len(line)-1)], err
}

// outcome returns in a word what there was, and an error that was not expected.
func outcome(said string, err error) (string, error) {
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return refused, nil
	case errors.Is(err, unix.EPERM):
		return eperm, nil
	}
	return said, err
}

// standIn answers as the metadata service would, and counts.
type standIn struct{ asked, datagrams atomic.Int32 }

func serveIMDS(t *testing.T) *standIn {
	t.Helper()
	s := &standIn{}
	l, err := net.Listen("tcp4", imds.String())
	check(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.asked.Add(1)
			c.Write([]byte(served + "\n"))
			c.Close()
		}
	}()
	u, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(imds))
	check(t, err)
	t.Cleanup(func() { u.Close() })
	go func() {
		for buffer := make([]byte, 16); ; s.datagrams.Add(1) {
			if _, err := u.Read(buffer); err != nil {
				return
			}
		}
	}()
	return s
}
