package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sidestep-agent/sidestep/test/floods/figures"
)

// flood is what a pod, or some, do to the broker.
type flood struct {
	name, who, bound string
	metrics          bool                // it is done to the port of the metrics, and the victim scrapes
	own              bool                // it is done to a listener of the pod's own
	run              func(*target) []int // returns the statuses of answers that matter
	expected         string
	// judge returns what was seen: expected if the bound holds.
	judge func(before, after figures.Figures, statuses []int) string
}

// address returns which of the host's addresses is flooded.
func (f flood) address(all []string) string {
	switch {
	case f.metrics:
		return all[1]
	case f.own:
		return all[3]
	}
	return all[0]
}

func within(most, is int, what string) string {
	if is <= most {
		return fmt.Sprintf("at most %d %s", most, what)
	}
	return fmt.Sprintf("%d %s", is, what)
}

// target is what is flooded.
type target struct {
	address string
	mu      sync.Mutex
	conns   []net.Conn
}

// dial connects from pod n and keeps the connection until release.
func (t *target) dial(pod int) net.Conn {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(pod))}, Timeout: 10 * time.Second}
	c, err := d.Dial("tcp4", t.address)
	if err != nil {
		return nil
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conns = append(t.conns, c)
	return c
}

func (t *target) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.conns {
		_ = c.Close()
	}
	t.conns = nil
}

// ask sends a GET on the connection and returns the answer's status, 0 if none
// came.
func ask(c net.Conn, path string) int {
	if c == nil {
		return 0
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nMetadata: true\r\n\r\n", path); err != nil {
		return 0
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

const goodToken = "/metadata/identity/oauth2/token?resource=good"

// at runs f so often at once.
func at(n int, f func(int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { f(i) })
	}
	all.Wait()
}

// open opens so many connections from each of the pods and sends that on each.
func (t *target) open(n int, text string, pods ...int) {
	at(len(pods), func(i int) {
		for range n {
			if c := t.dial(pods[i]); c != nil {
				_, _ = io.WriteString(c, text)
			}
		}
	})
	time.Sleep(300 * time.Millisecond) // until what was sent was read
}

// reset makes so many connections from a pod, sends the beginning of a request on
// each and resets it.
func (t *target) reset(n, pod int) {
	const workers = 64
	at(workers, func(int) {
		for range n / workers {
			c, ok := t.dial(pod).(*net.TCPConn)
			if !ok {
				continue
			}
			_, _ = io.WriteString(c, "GET "+goodToken+" HTTP/1.1\r\n")
			_ = c.SetLinger(0)
			_ = c.Close()
		}
	})
}

func all(status int, statuses []int) string {
	for _, s := range statuses {
		if s != status {
			return fmt.Sprintf("an answer %d", s)
		}
	}
	return fmt.Sprintf("%d answers %d", len(statuses), status)
}

// scrapers returns so many pods.
func scrapers(n int) []int {
	pods := make([]int, n)
	for i := range pods {
		pods[i] = 31 + i
	}
	return pods
}

var floods = []flood{{
	name: "2,000 connections, no request", who: "a pod not known yet", bound: "held callers of a pod",
	run:      func(t *target) []int { t.open(2000, "", 200); return nil },
	expected: "at most 68 connections",
	judge:    func(_, after figures.Figures, _ []int) string { return within(68, after.Connections, "connections") },
}, {
	name: "1,000 connections, closed at once", who: "20 pods not known yet", bound: "callers who have left",
	run: func(t *target) []int {
		pods := make([]int, 20)
		for i := range pods {
			pods[i] = 201 + i
		}
		t.open(50, "", pods...)
		t.release()
		return nil
	},
	expected: "at most 9 connections",
	judge:    func(_, after figures.Figures, _ []int) string { return within(9, after.Connections, "connections") },
}, {
	name: "3,000 connections that are reset", who: "a pod, 64 at a time", bound: "new connections", own: true,
	run:      func(t *target) []int { t.reset(3000, 10); return nil },
	expected: "at most 520 accepted at once",
	judge: func(_, after figures.Figures, _ []int) string {
		return within(520, after.AcceptedAtOnce, "accepted at once")
	},
}, {
	name: "headers of 15 KiB that do not end", who: "4 pods, 400 each", bound: "requests that arrive",
	run: func(t *target) []int {
		t.open(400, "GET / HTTP/1.1\r\nX: "+strings.Repeat("x", 15<<10), 11, 12, 13, 14)
		return nil
	},
	expected: "at most 136 connections",
	judge:    func(_, after figures.Figures, _ []int) string { return within(136, after.Connections, "connections") },
}, {
	name: "700 requests, each on a connection left open", who: "a pod", bound: "idle ones make room",
	run: func(t *target) []int {
		statuses := make([]int, 700)
		for i := range statuses {
			statuses[i] = ask(t.dial(15), goodToken)
			time.Sleep(5 * time.Millisecond) // its limit is 200 a second
		}
		return statuses
	},
	expected: "700 answers 200",
	judge:    func(_, _ figures.Figures, statuses []int) string { return all(200, statuses) },
}, {
	name: "500 idle connections each", who: "6 pods", bound: "connections over all",
	run: func(t *target) []int {
		t.open(500, "", 16, 17, 18, 19, 20, 21)
		return nil
	},
	expected: "at most 2056 connections",
	judge:    func(_, after figures.Figures, _ []int) string { return within(2056, after.Connections, "connections") },
}, {
	name: "requests that are refused, as fast as it can", who: "a pod, 64 connections", bound: "log lines",
	run: func(t *target) []int {
		end := time.Now().Add(2 * time.Second)
		at(64, func(int) {
			for c := t.dial(22); time.Now().Before(end); {
				ask(c, "/metadata/identity/oauth2/token?resource=bad")
			}
		})
		return nil
	},
	expected: "at most 25 lines",
	judge: func(before, after figures.Figures, _ []int) string {
		return within(25, after.Lines-before.Lines, "lines")
	},
}, {
	name: "made-up names of query parameters", who: "a pod", bound: "IMDS's own parameters",
	run: func(t *target) []int {
		at(12, func(i int) {
			ask(t.dial(23), fmt.Sprintf("/metadata/instance/compute?api-version=2021-02-01&a%d=b", i))
		})
		return nil
	},
	expected: "at most 1 requests at IMDS",
	judge: func(before, after figures.Figures, _ []int) string {
		return within(1, after.Asked-before.Asked, "requests at IMDS")
	},
}, {
	name: "made-up documents", who: "4 pods", bound: "a share of the VM's limit",
	run: func(t *target) []int {
		var statuses []int
		at(64, func(i int) {
			ask(t.dial(24+i%4), fmt.Sprintf("/metadata/instance/compute/made-up-%d?api-version=2021-02-01", i))
		})
		return statuses
	},
	expected: "at most 5 a second at IMDS",
	judge: func(_, after figures.Figures, _ []int) string {
		return within(5, after.AskedPerSecond, "a second at IMDS")
	},
}, {
	name: "goes on after IMDS's 429", who: "a pod", bound: "IMDS's Retry-After",
	run: func(t *target) []int {
		time.Sleep(1100 * time.Millisecond)
		for i := range 6 {
			ask(t.dial(28), fmt.Sprintf("/metadata/instance/throttled/%d?api-version=2021-02-01", i))
		}
		return nil
	},
	expected: "at most 1 requests at IMDS",
	judge: func(before, after figures.Figures, _ []int) string {
		return within(1, after.Asked-before.Asked, "requests at IMDS")
	},
}, {
	name: "a request that meets a bug", who: "a pod", bound: "panics",
	run: func(t *target) []int {
		for range 3 {
			ask(t.dial(29), "/metadata/identity/oauth2/token?resource=bug")
		}
		return nil
	},
	expected: "3 panics, and it lives",
	judge: func(before, after figures.Figures, _ []int) string {
		return fmt.Sprintf("%d panics, and it lives", after.Panics-before.Panics)
	},
}, {
	name: "2,000 connections to :9402, no request", who: "a pod", bound: "scrapers of one address", metrics: true,
	run:      func(t *target) []int { t.open(2000, "", 30); return nil },
	expected: "at most 17 connections",
	judge:    func(_, after figures.Figures, _ []int) string { return within(17, after.Scraping, "connections") },
}, {
	name: "headers to :9402 that do not end", who: "20 pods, 50 each", bound: "scrapers over all", metrics: true,
	run: func(t *target) []int {
		t.open(50, "GET /metrics HTTP/1.1\r\nX: "+strings.Repeat("x", 7<<10), scrapers(20)...)
		return nil
	},
	expected: "at most 128 connections",
	judge:    func(_, after figures.Figures, _ []int) string { return within(128, after.Scraping, "connections") },
}, {
	name: "scrapes whose answers are not read", who: "20 pods, 16 each", bound: "slow scrapers make room", metrics: true,
	run: func(t *target) []int {
		t.open(16, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", scrapers(20)...)
		return nil
	},
	expected: "at most 128 connections",
	judge:    func(_, after figures.Figures, _ []int) string { return within(128, after.Scraping, "connections") },
}, {
	name: "640 scrapes, as fast as it can", who: "a pod, 16 connections", bound: "answers are shared", metrics: true,
	run: func(t *target) []int {
		at(16, func(int) {
			c := t.dial(30)
			for range 40 {
				ask(c, "/metrics")
			}
		})
		return nil
	},
	expected: "at most 320 gathered",
	judge: func(before, after figures.Figures, _ []int) string {
		return within(320, after.Gathered-before.Gathered, "gathered")
	},
}}
