package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sidestep-agent/sidestep/test/lab"
)

// flooding is what a process of an attacker's pod does to a server.
type flooding struct {
	At    netip.AddrPort
	Kind  string
	Lasts time.Duration
	Round int // makes what it asks for new
}

// floodKinds are the floods, by what they are called in the table.
var floodKinds = []struct{ kind, figure string }{
	{"idle", "connections without a request"},
	{"headers", "headers that do not end"},
	{"bytes", "requests sent byte by byte"},
	{"pipelined", "10,000 requests in one stream"},
	{"reset", "connections that are reset"},
	{"refused", "requests that are refused"},
	{"resources", "ever new resources"},
	{"metadata", "ever new metadata parameters"},
}

const (
	// floodConns is how many connections have requests under way, and mostConns
	// how many are kept open that have none.
	floodConns = 64
	mostConns  = 2000
)

func init() { lab.Register("flood", flood) }

func flood(f flooding) (struct{}, error) {
	one := map[string]func(flooding, *keeper, int) error{
		"idle": func(f flooding, k *keeper, _ int) error { return k.open(f.At, "") },
		"headers": func(f flooding, k *keeper, _ int) error {
			return k.open(f.At, "GET / HTTP/1.1\r\nX: "+strings.Repeat("x", 15<<10))
		},
		"bytes":     floodBytes,
		"pipelined": floodPipelined,
		"reset":     floodReset,
		"refused":   floodRequests,
		"resources": floodRequests,
		"metadata":  floodRequests,
	}[f.Kind]
	if one == nil {
		return struct{}{}, fmt.Errorf("no flood %q", f.Kind)
	}
	k := &keeper{}
	defer k.close()
	end := time.Now().Add(f.Lasts)
	var all sync.WaitGroup
	for worker := range floodConns {
		all.Go(func() {
			for n := worker; time.Now().Before(end); n += floodConns {
				if one(f, k, n) != nil {
					time.Sleep(time.Millisecond) // refused
				}
			}
		})
	}
	all.Wait()
	return struct{}{}, nil
}

// dialer is that of floods, which end by their own time.
var dialer = net.Dialer{Timeout: time.Second}

// keeper keeps connections open, the newest mostConns of them.
type keeper struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (k *keeper) open(at netip.AddrPort, text string) error {
	c, err := dialer.DialContext(context.Background(), "tcp4", at.String())
	if err != nil {
		return err
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	_, err = io.WriteString(c, text)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conns = append(k.conns, c); len(k.conns) > mostConns {
		_ = k.conns[0].Close()
		k.conns = k.conns[1:]
	}
	return err
}

func (k *keeper) close() {
	for _, c := range k.conns {
		_ = c.Close()
	}
}

// onOne makes one connection and hands it to do.
func onOne(at netip.AddrPort, do func(net.Conn) error) error {
	c, err := dialer.DialContext(context.Background(), "tcp4", at.String())
	if err != nil {
		return err
	}
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	return errors.Join(do(c), c.Close())
}

func floodBytes(f flooding, _ *keeper, _ int) error {
	return onOne(f.At, func(c net.Conn) error {
		for _, b := range tokenRequest("https%3A%2F%2Fvault.azure.net") {
			if _, err := c.Write([]byte{b}); err != nil {
				return err
			}
		}
		_, err := c.Read(make([]byte, 4<<10))
		return err
	})
}

func floodPipelined(f flooding, _ *keeper, _ int) error {
	return onOne(f.At, func(c net.Conn) error {
		_, err := c.Write(slices.Repeat(tokenRequest("https%3A%2F%2Fvault.azure.net"), 10_000))
		return err
	})
}

func floodReset(f flooding, _ *keeper, _ int) error {
	return onOne(f.At, func(c net.Conn) error {
		_, err := io.WriteString(c, "GET /metadata/identity/oauth2/token HTTP/1.1\r\n")
		return errors.Join(err, c.(*net.TCPConn).SetLinger(0))
	})
}

// floodRequests asks a hundred times on a connection, each time for something
// new.
func floodRequests(f flooding, _ *keeper, n int) error {
	return onOne(f.At, func(c net.Conn) error {
		_ = c.SetDeadline(time.Now().Add(f.Lasts))
		answer := make([]byte, 8<<10)
		for i := range 100 {
			made := fmt.Sprintf("%d-%d-%d", f.Round, n, i)
			request := tokenRequest("https%3A%2F%2Fmade-up-" + made)
			switch f.Kind {
			case "refused":
				request = tokenRequest("") // 400 at once
			case "metadata":
				request = []byte("GET /metadata/instance?api-version=2021-02-01&a" + made + "=b HTTP/1.1\r\nHost: x\r\nMetadata: true\r\n\r\n")
			}
			if _, err := c.Write(request); err != nil {
				return err
			}
			if _, err := c.Read(answer); err != nil {
				return err
			}
		}
		return nil
	})
}

// watching is how a pod is served that asks for a cached token now and then, on
// a connection of its own each time.
type watching struct {
	Request []byte
	Lasts   time.Duration
}

// watched is what it saw.
type watched struct {
	P99  float64 // microseconds
	Lost int     // requests that brought no token
}

func init() { lab.Register("watch", watch) }

func watch(w watching) (out watched, err error) {
	var samples []float64
	for end := time.Now().Add(w.Lasts); time.Now().Before(end); time.Sleep(8 * time.Millisecond) { // its own limit is 200 a second
		began, c := time.Now(), newClient()
		if err = c.dial(imds); err == nil {
			err = c.exchange(w.Request)
		}
		c.close()
		if err != nil {
			out.Lost++
		}
		samples = append(samples, float64(time.Since(began).Nanoseconds())/1e3)
	}
	slices.Sort(samples)
	out.P99 = quantile(samples, 0.99)
	return out, nil
}

// during has the attacker's process run while f does.
func during(ctx context.Context, attacker *lab.Pod, f flooding, do func() error) error {
	ended := make(chan error, 1)
	go func() {
		_, err := lab.Run[flooding, struct{}](ctx, attacker, "flood", f)
		ended <- err
	}()
	time.Sleep(floodLead)
	return errors.Join(do(), <-ended)
}
