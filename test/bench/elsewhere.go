package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// elsewhere is one turn of a process that has nothing to do with the metadata
// service. A turn has parts, which are so short that most pass without the
// scheduler's coming between; it comes to the median of them.
type elsewhere struct {
	Do string
	To netip.AddrPort
}

// What a process does in its turn, and what it returns.
const (
	connectUDP  = "connect a UDP socket" // nanoseconds a call
	connectTCP  = "connect a TCP socket" // the same
	sendPackets = "send datagrams"       // a second, of one byte, a call each
	sendBulk    = "send a stream"        // bytes a second
)

const (
	partsOfTurn   = 8
	connectsUDP   = 50 // of a part
	connectsTCP   = 100
	partOfPackets = 500 * time.Microsecond
	partOfStream  = 3 * time.Millisecond // a window opens again after each pause
	writesAtOnce  = 8
)

func init() {
	sockets := map[string]int{} // that are kept from turn to turn
	registerSession("elsewhere", func(e elsewhere) (float64, error) {
		switch e.Do {
		case connectUDP:
			return e.connectUDP()
		case connectTCP:
			return e.connectTCP()
		case sendPackets:
			return e.send(sockets, unix.SOCK_DGRAM, 1, partOfPackets)
		default:
			return e.send(sockets, unix.SOCK_STREAM, 64<<10, partOfStream)
		}
	})
}

func (e elsewhere) address() *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: int(e.To.Port()), Addr: e.To.Addr().As4()}
}

// connectUDP connects one socket again and again: a system call that sends
// nothing, so that a few instructions more would show.
func (e elsewhere) connectUDP() (float64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	to := e.address()
	return medianOf(partsOfTurn, func() (float64, error) {
		start := time.Now()
		for range connectsUDP {
			if err := unix.Connect(fd, to); err != nil {
				return 0, err
			}
		}
		return float64(time.Since(start).Nanoseconds()) / connectsUDP, nil
	})
}

// connectTCP opens connections one after another. They are reset, so that none
// lingers.
func (e elsewhere) connectTCP() (float64, error) {
	to := e.address()
	return medianOf(connectsTCP, func() (float64, error) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return 0, err
		}
		defer unix.Close(fd)
		start := time.Now()
		err = unix.Connect(fd, to)
		took := time.Since(start)
		if err != nil {
			return 0, err
		}
		return float64(took.Nanoseconds()), unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
}

// send returns how much went out in a second: datagrams of one byte, or bytes.
func (e elsewhere) send(sockets map[string]int, kind, size int, part time.Duration) (float64, error) {
	fd, kept := sockets[e.Do]
	if !kept {
		var err error
		if fd, err = unix.Socket(unix.AF_INET, kind, 0); err != nil {
			return 0, err
		}
		if err := unix.Connect(fd, e.address()); err != nil {
			return 0, err
		}
		sockets[e.Do] = fd // the process's, until its end
	}
	payload := make([]byte, size)
	return medianOf(partsOfTurn, func() (float64, error) {
		start, sent := time.Now(), 0
		for time.Since(start) < part {
			for range writesAtOnce {
				n, err := unix.Write(fd, payload)
				if err != nil {
					return 0, err
				}
				sent += n
			}
		}
		return float64(sent) / time.Since(start).Seconds(), nil
	})
}

func medianOf(parts int, part func() (float64, error)) (float64, error) {
	all := make([]float64, parts)
	for i := range all {
		var err error
		if all[i], err = part(); err != nil {
			return 0, err
		}
	}
	return median(all), nil
}

// startSink takes in streams, on an address of the node's, and lets datagrams
// lie until its buffer is full, when the kernel drops them: a reader would
// compete with the sender for the processor. The function ends it.
func startSink() (at netip.AddrPort, stop func(), err error) {
	at = netip.MustParseAddrPort("10.63.255.1:9")
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return at, nil, err
	}
	ip := &net.IPNet{IP: at.Addr().AsSlice(), Mask: net.CIDRMask(32, 32)}
	if err := netlink.AddrReplace(lo, &netlink.Addr{IPNet: ip}); err != nil {
		return at, nil, fmt.Errorf("put %s on the loopback link: %w", at.Addr(), err)
	}
	stop, err = listenAt(at)
	return at, stop, err
}

// listenAt is startSink at an address that is there.
func listenAt(at netip.AddrPort) (stop func(), err error) {
	var plain net.ListenConfig
	plain.SetMultipathTCP(false)
	packets, err := plain.ListenPacket(context.Background(), "udp4", at.String())
	if err != nil {
		return nil, err
	}
	stream, err := plain.Listen(context.Background(), "tcp4", at.String())
	if err != nil {
		packets.Close()
		return nil, err
	}
	go func() {
		for {
			c, err := stream.Accept()
			if err != nil {
				return
			}
			go drain(c)
		}
	}()
	return func() { packets.Close(); stream.Close() }, nil
}

func drain(c net.Conn) {
	defer c.Close()
	for buffer := make([]byte, 256<<10); ; {
		if _, err := c.Read(buffer); err != nil {
			return
		}
	}
}
