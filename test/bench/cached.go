package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/scene"
)

var imds = netip.MustParseAddrPort(lab.IMDS + ":80")

// fetching is a request for which a process in the pod returns the body that
// comes.
type fetching struct {
	At      netip.AddrPort
	Request []byte
}

func init() { lab.Register("fetch", fetch) }

func fetch(f fetching) ([]byte, error) {
	c := newClient()
	defer c.close()
	if err := c.dial(f.At); err != nil {
		return nil, err
	}
	if err := c.exchange(f.Request); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(c.answer)), nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// What a block came to, of which a row tells.
var (
	p50        = func(b block) float64 { return b.P50 }
	p99        = func(b block) float64 { return b.P99 }
	throughput = func(b block) float64 { return b.PerSecond }
	cpu        = func(b block) float64 { return b.CPU }
)

// measureCached returns the rows of cached tokens: the agent against a bare
// net/http server that returns the same bytes, and that against another of its
// kind.
func measureCached(ctx context.Context, s *scene.Scene, w *scene.Workload, r *report) error {
	request := tokenRequest("https%3A%2F%2Fvault.azure.net")
	body, err := lab.Run[fetching, []byte](ctx, w.Pod, "fetch", fetching{imds, request})
	if err != nil {
		return err
	}
	c := &cachedRows{report: r, pod: w.Pod, servers: []server{{"agent", imds, request, s.Agent.PID()}}}
	for i := range 2 {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(8080+i))
		pid, end, err := startFloor(s.Node, w.Pod, floor{At: at, Body: body})
		if err != nil {
			return err
		}
		defer end()
		c.servers = append(c.servers, server{fmt.Sprintf("bare net/http %d", i+1), at, request, pid})
	}
	at := netip.MustParseAddrPort("127.0.0.1:8082")
	pid, end, err := startFloor(s.Node, w.Pod, floor{At: at, Body: answerOf(body), Raw: true})
	if err != nil {
		return err
	}
	defer end()
	c.servers = append(c.servers, server{"raw TCP", at, request, pid})
	for _, measure := range []func(context.Context) error{c.keepAlive, c.newConnections, c.crowded} {
		if err := measure(ctx); err != nil {
			return err
		}
	}
	return nil
}

// answerOf returns the answer with that body as the agent has it on the wire.
func answerOf(body []byte) []byte {
	return append(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nDate: %s\r\nContent-Length: %d\r\n\r\n",
		time.Now().UTC().Format(http.TimeFormat), len(body)), body...)
}

// cachedRows measures the same servers throughout.
type cachedRows struct {
	report  *report
	pod     *lab.Pod
	servers []server
}

func (c *cachedRows) exchange(ctx context.Context, e exchanging) (exchanged, error) {
	e.Servers = c.servers
	return lab.Run[exchanging, exchanged](ctx, c.pod, "exchange", e)
}

func (c *cachedRows) keepAlive(ctx context.Context) error {
	e, err := c.exchange(ctx, exchanging{Rounds: 120, Requests: 500, Connections: 1})
	if err != nil {
		return err
	}
	c.addLimit("cached token, keep-alive, p50, against the limit", microseconds, e, p50, atMost(1.25, " ×"))
	c.add("cached token, keep-alive, p50", microseconds, e, p50, atMost(1.10, " ×"))
	c.add("cached token, keep-alive, p99", microseconds, e, p99, atMost(1.25, " ×"))
	c.report.KeepAlive = c.spreads(e)
	return nil
}

func (c *cachedRows) newConnections(ctx context.Context) error {
	e, err := c.exchange(ctx, exchanging{Rounds: 120, Requests: 200, Connections: 1, New: true})
	if err != nil {
		return err
	}
	c.add("cached token, new connection, p50", microseconds, e, p50, atMost(1.15, " ×"))
	c.add("cached token, new connection, p99", microseconds, e, p99, atMost(1.3, " ×"))
	c.report.NewConn = c.spreads(e)
	return nil
}

func (c *cachedRows) crowded(ctx context.Context) error {
	const rounds, requests, mallocs = 100, 3000, "go_memstats_mallocs_total"
	before, err := metric(ctx, mallocs)
	if err != nil {
		return err
	}
	e, err := c.exchange(ctx, exchanging{Rounds: rounds, Requests: requests, Connections: 16})
	if err != nil {
		return err
	}
	after, err := metric(ctx, mallocs)
	if err != nil {
		return err
	}
	c.addLimit("throughput at 16 connections, against the limit", perSecond, e, throughput, atLeast(0.8, " ×"))
	c.add("throughput at 16 connections", perSecond, e, throughput, atLeast(0.95, " ×"))
	c.add("CPU per cached request", microseconds, e, cpu, atMost(1.15, " ×"))
	each := (after - before) / ((rounds + 1) * requests)
	c.report.Rows = append(c.report.Rows, valueRow("heap allocations per cached request, whole process",
		fmt.Sprintf("%.2f", each), "–", each, atMost(10, "")))
	return nil
}

// add adds the row of what the blocks came to.
func (c *cachedRows) add(figure string, unit func(float64) string, e exchanged, of func(block) float64, target limit) {
	all := values(e, of)
	c.report.Rows = append(c.report.Rows, ratioRow(figure, unit(median(all[0])), unit(median(all[1]))+", bare net/http",
		ratioOf(all[0], all[1]), ratioOf(all[2], all[1]), "another bare net/http", target))
}

// addLimit adds the row of the blocks against those of a raw TCP server, which
// is the limit, with what net/http is of that.
func (c *cachedRows) addLimit(figure string, unit func(float64) string, e exchanged, of func(block) float64, target limit) {
	all := values(e, of)
	c.report.Rows = append(c.report.Rows, ratioRow(figure, unit(median(all[0])), unit(median(all[3]))+", raw TCP",
		ratioOf(all[0], all[3]), ratioOf(all[1], all[3]), "bare net/http", target))
}

// values returns what each server's blocks came to.
func values(e exchanged, of func(block) float64) [][]float64 {
	all := make([][]float64, len(e.Blocks))
	for i, blocks := range e.Blocks {
		for _, b := range blocks {
			all[i] = append(all[i], of(b))
		}
	}
	return all
}

func (c *cachedRows) spreads(e exchanged) []spread {
	var all []spread
	for i, s := range c.servers {
		all = append(all, spread{Side: s.Name, Percentiles: e.Spread[i]})
	}
	return all
}

// metric returns a metric of the agent's that has no labels.
func metric(ctx context.Context, name string) (float64, error) {
	text, err := scene.Metrics(ctx)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("the agent has no metric %s", name)
}
