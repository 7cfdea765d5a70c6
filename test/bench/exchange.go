package main

import (
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/test/lab"
)

// server is one side of a comparison over HTTP.
type server struct {
	Name    string
	At      netip.AddrPort
	Request []byte
	PID     int // whose CPU time is counted
}

// exchanging is what a process in the pod does: blocks of requests, the
// servers in turn.
type exchanging struct {
	Servers []server
	Rounds  int
	// Requests is how many requests a block has.
	Requests int
	// Connections is how many have a request under way at a time.
	Connections int
	// New has each request made on a connection of its own.
	New bool
}

// block is what one block of requests came to.
type block struct {
	P50, P99  float64 // microseconds; 0 with several connections
	PerSecond float64
	CPU       float64 // the server's, microseconds a request
}

// exchanged has the blocks of each server, in the order of the rounds, and how
// its latencies were spread over the whole run.
type exchanged struct {
	Blocks [][]block
	Spread [][]float64 // percentiles 0–100 in microseconds
}

func init() { lab.Register("exchange", exchange) }

func exchange(e exchanging) (exchanged, error) {
	runtime.LockOSThread()
	debug.SetGCPercent(-1) // what is kept is small
	out := exchanged{Blocks: make([][]block, len(e.Servers))}
	x := exchanger{exchanging: e, all: make([][]float64, len(e.Servers))}
	for round := range e.Rounds + 1 {
		for _, i := range order(len(e.Servers)) {
			b, samples, err := x.block(e.Servers[i])
			if err != nil {
				return out, err
			}
			if round == 0 { // warms both sides up
				continue
			}
			out.Blocks[i] = append(out.Blocks[i], b)
			x.all[i] = append(x.all[i], samples...)
		}
	}
	for _, samples := range x.all {
		out.Spread = append(out.Spread, percentiles(samples))
	}
	return out, nil
}

type exchanger struct {
	exchanging
	all [][]float64
}

func (x *exchanger) block(s server) (b block, samples []float64, err error) {
	cpu, err := cpuTime(s.PID)
	if err != nil {
		return b, nil, err
	}
	start := time.Now()
	if x.Connections > 1 {
		err = x.crowd(s)
	} else {
		samples, err = x.alone(s)
	}
	took := time.Since(start)
	if err != nil {
		return b, nil, err
	}
	used, err := cpuTime(s.PID)
	if err != nil {
		return b, nil, err
	}
	b = block{
		PerSecond: float64(x.Requests) / took.Seconds(),
		CPU:       float64((used - cpu).Nanoseconds()) / 1e3 / float64(x.Requests),
	}
	if samples != nil {
		sorted := slices.Sorted(slices.Values(samples))
		b.P50, b.P99 = quantile(sorted, 0.5), quantile(sorted, 0.99)
	}
	return b, samples, nil
}

// alone makes the block's requests one after another and returns how long each
// took, in microseconds.
func (x *exchanger) alone(s server) ([]float64, error) {
	samples := make([]float64, x.Requests)
	c := newClient()
	defer func() { c.close() }()
	for i := range samples {
		start := time.Now()
		if c.fd < 0 {
			if err := c.dial(s.At); err != nil {
				return nil, err
			}
		}
		if err := c.exchange(s.Request); err != nil {
			return nil, err
		}
		samples[i] = float64(time.Since(start).Nanoseconds()) / 1e3
		if x.New {
			c.close()
		}
	}
	return samples, nil
}

// crowd makes the block's requests on several connections at a time.
func (x *exchanger) crowd(s server) error {
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(poll)
	clients := make(map[int32]*client, x.Connections)
	left := x.Requests
	for range x.Connections {
		c := newClient()
		defer c.close()
		if err := c.dial(s.At); err != nil {
			return err
		}
		fd := int32(c.fd)
		if err := unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: fd}); err != nil {
			return err
		}
		clients[fd] = c
		if err := c.send(s.Request); err != nil {
			return err
		}
	}
	events := make([]unix.EpollEvent, x.Connections)
	for under := x.Connections; under > 0; {
		n, err := unix.EpollWait(poll, events, -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range events[:n] {
			c := clients[e.Fd]
			if err := c.receive(); err != nil {
				return err
			}
			if left--; left < x.Connections {
				under--
				continue
			}
			if err := c.send(s.Request); err != nil {
				return err
			}
		}
	}
	return nil
}

// cpuTime returns the CPU time that a process has used, by its own clock
// (clock_getcpuclockid(3)).
func cpuTime(pid int) (time.Duration, error) {
	const schedulerClock = 2
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedulerClock), &used); err != nil {
		return 0, err
	}
	return time.Duration(used.Nano()), nil
}
