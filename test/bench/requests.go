package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/sidestep-agent/sidestep/pkg/routeguard"
	"github.com/sidestep-agent/sidestep/test/scene"
)

const (
	// slowBy is how much later the API server's words come where it is slowed.
	slowBy = 2 * time.Second
)

// requests has pods make one request each at their first instruction, and
// counts the statuses of the answers.
type requests struct {
	scene  *scene.Scene
	first  string          // the program
	path   string          // what it asks for
	bridge *netlink.Bridge // all pods are its ports; nil: each has a link of its own

	mu       sync.Mutex
	statuses map[int]int
	failed   []string // why there was no answer
}

// measurePassing starts pods that pass and counts the packets that the second
// line has dropped: each pod's first packet must find it open.
func measurePassing(ctx context.Context, o options, s *scene.Scene, r *report) error {
	before, there := routeguard.Drops()
	if !there {
		return errors.New("the agent has no second line")
	}
	q := &requests{scene: s, first: o.first, path: "/metadata/instance?api-version=2021-02-01"}
	began := time.Now()
	if err := q.run(ctx, "passing", o.starts, nil); err != nil {
		return err
	}
	after, there := routeguard.Drops()
	if !there {
		return errors.New("the second line is gone")
	}
	dropped := float64(after - before)
	r.Rows = append(r.Rows, valueRow(fmt.Sprintf("first packets of pods that pass, dropped by the second line, %d starts", o.starts),
		fmt.Sprintf("%.0f", dropped), "–", dropped, exactly(0)))
	r.Notes = append(r.Notes, fmt.Sprintf("first requests of %d pods that pass: %s; %.0f s", o.starts, q.tally(), time.Since(began).Seconds()))
	return q.allServed(o.starts)
}

// measureBridge starts pods that are steered, all on one bridge, and counts how
// many first requests were answered 429: the pod's own listener was not open
// yet, and no token is sent over the bridge.
func measureBridge(ctx context.Context, o options, s *scene.Scene, w *scene.Workload, r *report) (err error) {
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}
	if err := netlink.LinkAdd(bridge); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, netlink.LinkDel(bridge)) }()
	if err := netlink.LinkSetUp(bridge); err != nil {
		return err
	}
	if _, err := plug(bridge, w); err != nil { // a neighbour for each of them
		return err
	}
	if err := bridgeRow(ctx, o, s, bridge, "", o.starts, r, exactly(0)); err != nil {
		return err
	}
	s.Cloud.API.Slow(slowBy)
	defer s.Cloud.API.Slow(0)
	return bridgeRow(ctx, o, s, bridge, fmt.Sprintf(", the API server %s slower", slowBy), o.slowStarts, r, atMost(float64(o.slowStarts), ""))
}

func bridgeRow(ctx context.Context, o options, s *scene.Scene, bridge *netlink.Bridge, how string, n int, r *report, target limit) error {
	q := &requests{
		scene: s, first: o.first, bridge: bridge,
		path: "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + vault,
	}
	began := time.Now()
	if err := q.run(ctx, "bridge"+strconv.Itoa(n), n, map[string]string{scene.UseLabel: "true"}); err != nil {
		return err
	}
	again := q.statuses[http.StatusTooManyRequests]
	r.Rows = append(r.Rows, valueRow(fmt.Sprintf("first requests on a shared bridge answered 429, of %d%s", n, how),
		strconv.Itoa(again), "–", float64(again), target))
	r.Notes = append(r.Notes, fmt.Sprintf("first requests of %d pods on a shared bridge%s: %s; %.0f s", n, how, q.tally(), time.Since(began).Seconds()))
	neither := n - again - q.statuses[http.StatusOK]
	r.Rows = append(r.Rows, valueRow(fmt.Sprintf("first requests on a shared bridge answered otherwise, of %d%s", n, how),
		strconv.Itoa(neither), "–", float64(neither), exactly(0)))
	return nil
}

// run starts so many pods, some of them at a time, each bound to the node some
// starts before.
func (q *requests) run(ctx context.Context, name string, n int, labels map[string]string) error {
	q.statuses = make(map[int]int)
	pods := make([]*scene.Workload, n)
	for i := range pods {
		pods[i] = newWorkload(name+"-"+strconv.Itoa(i), i%crowdIdentities)
		pods[i].Labels = labels
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(startsAtATime)
	for i, w := range pods {
		if i == 0 {
			announce(q.scene, pods[:min(boundAhead, n)]...)
		} else if i+boundAhead <= n {
			announce(q.scene, pods[i+boundAhead-1])
		}
		group.Go(func() error { return q.start(ctx, w) })
	}
	return group.Wait()
}

func (q *requests) start(ctx context.Context, w *scene.Workload) (err error) {
	if err := q.scene.Start(w); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, q.scene.Stop(w)) }()
	if q.bridge != nil {
		unplug, failed := plug(q.bridge, w)
		if failed != nil {
			return failed
		}
		defer func() { err = errors.Join(err, unplug()) }()
	}
	time.Sleep(runtimeTime)
	answer, err := w.Pod.Output(ctx, nil, q.first, q.path)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	status, none := strconv.Atoi(string(answer))
	q.mu.Lock()
	defer q.mu.Unlock()
	if none != nil { // refused, or nothing came
		status = 0
		q.failed = append(q.failed, err.Error())
	}
	q.statuses[status]++
	return nil
}

// plug makes the node's end of the pod's link a port of the bridge, and its
// addresses those of the bridge, as the CNI plugin bridge does; unplug takes them
// from the bridge again.
func plug(bridge *netlink.Bridge, w *scene.Workload) (unplug func() error, err error) {
	port, err := netlink.LinkByIndex(w.Pod.NodeLink.Index)
	if err != nil {
		return nil, err
	}
	addresses, err := addressesOf(port)
	if err != nil {
		return nil, err
	}
	for _, a := range addresses {
		err := errors.Join(netlink.AddrDel(port, &a), netlink.AddrReplace(bridge, &netlink.Addr{IPNet: a.IPNet}))
		if err != nil {
			return nil, fmt.Errorf("move %s to the bridge: %w", a.IPNet, err)
		}
	}
	return func() (err error) {
		for _, a := range addresses {
			err = errors.Join(err, netlink.AddrDel(bridge, &netlink.Addr{IPNet: a.IPNet}))
		}
		return err
	}, netlink.LinkSetMaster(port, bridge)
}

// addressesOf lists the addresses of a link; again where another pod's came or
// went meanwhile, since the kernel then says that its list is not whole.
func addressesOf(l netlink.Link) ([]netlink.Addr, error) {
	for {
		all, err := netlink.AddrList(l, netlink.FAMILY_V4)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
}

// allServed fails unless so many requests, and no others, were answered 200.
func (q *requests) allServed(n int) error {
	if q.statuses[http.StatusOK] != n || len(q.statuses) > 1 {
		return fmt.Errorf("first requests: %s, want %d answered 200", q.tally(), n)
	}
	return nil
}

func (q *requests) tally() string {
	var all []string
	for _, status := range slices.Sorted(maps.Keys(q.statuses)) {
		what := strconv.Itoa(status)
		if status == 0 {
			what = fmt.Sprintf("no answer (%s)", strings.Join(q.failed, "; "))
		}
		all = append(all, fmt.Sprintf("%d × %s", q.statuses[status], what))
	}
	return strings.Join(all, ", ")
}
