package delivery

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// lookTwice is how long after a pod was closed off its sockets are looked at
// once more: a connect() that had passed the hook by then may not have been in
// the kernel's table yet.
const lookTwice = time.Second

// closedTo is where a cgroup's sockets may not lead, a bit each.
type closedTo uint8

const (
	closedToIMDS closedTo = 1 << iota
	closedToWireServer
)

func closedBy(e workload.Entry) (c closedTo) {
	if e.Verdict != workload.Pass {
		c |= closedToIMDS
	}
	if e.DenyWireServer {
		c |= closedToWireServer
	}
	return c
}

// aborter destroys the sockets of pods that lead to where the pod may not go any
// more. Their packets are dropped as it is; with the socket destroyed the
// application sees an error at once, and not after minutes of silence. It works
// beside the Reconciler.
type aborter struct {
	*Options
	sandboxes *sandboxFinder
	// destroy is destroySockets but in tests.
	destroy func(ns *namespace, closed func(cgroupID uint64) closedTo) (int, error)
	trigger chan struct{}
	seen    map[string]abortable // by pod UID; the Reconciler's alone

	mu   sync.Mutex
	jobs map[string]*abortJob // by pod UID
}

// abortable is where a pod's sockets may not lead.
type abortable struct {
	workload.PodCgroup
	closed map[uint64]closedTo // by cgroup, of those that have an entry
	shared bool                // some container passes
	ended  map[uint64]bool     // cgroups of containers that the pod had; never changed
}

// mostEnded bounds the ended containers of a pod that are remembered: the
// kubelet starts one again every five minutes at the most.
const mostEnded = 256

// abortJob is a pod whose sockets are to be looked at.
type abortJob struct {
	abortable
	due    time.Time
	again  bool // once more after that
	failed bool // logged already
}

func newAborter(o *Options, sandboxes *sandboxFinder) *aborter {
	return &aborter{
		Options: o, sandboxes: sandboxes, destroy: destroySockets, trigger: make(chan struct{}, 1),
		seen: make(map[string]abortable), jobs: make(map[string]*abortJob),
	}
}

// see has a pod's sockets looked at if the pod, or one of its containers, is
// closed off where it was not before, or a container of one that is has ended.
func (a *aborter) see(now abortable) {
	before := a.seen[now.UID]
	now.ended = before.endedBy(now)
	a.seen[now.UID] = now
	// What an ended container left may not have been known for its own when the
	// pod was closed off.
	newly, passed := len(now.ended) > len(before.ended) && now.closed[now.CgroupID] != 0, false
	for id, c := range now.closed {
		was, known := before.closed[id]
		if c&^was != 0 {
			newly = true
			passed = passed || known
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	job := a.jobs[now.UID]
	switch {
	case newly:
		a.jobs[now.UID] = &abortJob{abortable: now, due: time.Now(), again: passed}
		a.wake()
	case job != nil:
		job.abortable = now
	}
}

// endedBy returns the cgroups of containers that the pod had and now has no
// more. A container may have left its connections to another of the pod, and
// their sockets still bear its cgroup.
func (p abortable) endedBy(now abortable) map[uint64]bool {
	var gone []uint64
	for _, c := range p.Containers {
		if !slices.ContainsFunc(now.Containers, func(n workload.ContainerCgroup) bool { return n.CgroupID == c.CgroupID }) {
			gone = append(gone, c.CgroupID)
		}
	}
	if len(gone) == 0 || len(p.ended)+len(gone) > mostEnded {
		return p.ended
	}
	ended := maps.Clone(p.ended)
	if ended == nil {
		ended = make(map[uint64]bool)
	}
	for _, id := range gone {
		ended[id] = true
	}
	return ended
}

func (a *aborter) wake() {
	select {
	case a.trigger <- struct{}{}:
	default:
	}
}

// forget drops what is kept of pods that no longer run.
func (a *aborter) forget(running map[string]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for uid := range a.seen {
		if !running[uid] {
			delete(a.seen, uid)
			delete(a.jobs, uid)
		}
	}
}

// run works until ctx ends, or this kernel turns out to destroy no sockets.
func (a *aborter) run(ctx context.Context) {
	var soon time.Duration
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.trigger:
		case <-after(soon):
		}
		var err error
		if soon, err = a.work(time.Now()); err != nil {
			a.Log.Warn("connections that a pod has to where it may not go end by their own timeouts", "err", err)
			return
		}
	}
}

// work does what is due, and returns how soon to work again; 0: nothing is left.
// The only error is errNoDestroy.
func (a *aborter) work(now time.Time) (soon time.Duration, err error) {
	for _, job := range a.take(now) {
		n, err := a.abort(job.abortable)
		if errors.Is(err, errNoDestroy) {
			return 0, err
		}
		if n > 0 {
			a.Log.Info("connections ended that led to where the pod may not go", "pod_uid", job.UID, "count", n)
		}
		if err != nil {
			if !job.failed {
				a.Log.Warn("a pod's connections could not be looked at; trying again", "pod_uid", job.UID, "err", err)
			}
			job.failed = true
			a.later(job, now.Add(checkInterval))
		} else if job.again {
			job.again = false
			a.later(job, now.Add(lookTwice))
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, job := range a.jobs {
		soon = earlier(soon, max(time.Until(job.due), 1))
	}
	return soon, nil
}

// take returns the jobs that are due, which are not kept any more.
func (a *aborter) take(now time.Time) (due []*abortJob) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for uid, job := range a.jobs {
		if !job.due.After(now) {
			due = append(due, job)
			delete(a.jobs, uid)
		}
	}
	return due
}

// later does a job again, unless there is a newer one.
func (a *aborter) later(job *abortJob, due time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.jobs[job.UID] == nil {
		job.due = due
		a.jobs[job.UID] = job
	}
}

// abort destroys what sockets a pod has that lead to where it may not go, and
// returns how many. A pod without a namespace of its own, or whose namespace may
// not be entered, has them in the node's, where only its own are looked at.
func (a *aborter) abort(pod abortable) (int, error) {
	elsewhere := closedTo(0)
	var ns *namespace // the node's
	if !a.NodeOnly {
		own, err := a.sandboxes.open(pod.Path)
		switch {
		case err == nil:
			defer own.close()
			ns = own
			// What others have there, as the agent that connects on behalf of a
			// held pod, is the pod's too.
			if !pod.shared {
				elsewhere = pod.closed[pod.CgroupID]
			}
		case !errors.Is(err, errNoSandbox):
			return 0, fmt.Errorf("open the pod's network namespace: %w", err)
		}
	}
	return a.destroy(ns, func(cgroupID uint64) closedTo {
		if pod.ended[cgroupID] {
			return pod.closed[pod.CgroupID]
		}
		ref, err := a.Cgroups.Resolve(cgroupID)
		if err != nil || ref.PodUID != pod.UID {
			return elsewhere
		}
		return pod.closedTo(ref.ContainerID)
	})
}

// closedTo returns where a container's sockets may not lead, as the kernel looks
// that up: the deepest entry decides.
func (p abortable) closedTo(containerID string) closedTo {
	for _, c := range p.Containers {
		if closed, ok := p.closed[c.CgroupID]; ok && c.ContainerID == containerID {
			return closed
		}
	}
	return p.closed[p.CgroupID]
}

// errNoDestroy means that this kernel destroys no sockets on request.
var errNoDestroy = errors.New("the kernel destroys no sockets: it is built without CONFIG_INET_DIAG_DESTROY, or has no tcp_diag")

// What sock_diag(7) takes and returns (linux/sock_diag.h, linux/inet_diag.h).
const (
	sockDiagByFamily = 20
	sockDestroy      = 21
	diagRequestSize  = 56
	diagMessageSize  = 72
	diagCgroupID     = 21 // INET_DIAG_CGROUP_ID, since Linux 5.9
)

// A socket's identity: its ends, its link and its cookie. It stands in requests
// and in answers.
const (
	diagIDSize      = 48
	diagIDInRequest = 8
	diagIDInMessage = 4
	diagPortInID    = 2 // of the other end
	diagAddressInID = 20
)

// openStates are those of connections that may wait for something: all but
// those that listen, have ended, or have no socket of an application any more.
const openStates = 0xfff &^ (1<<unix.BPF_TCP_LISTEN | 1<<unix.BPF_TCP_TIME_WAIT | 1<<unix.BPF_TCP_CLOSE)

// destroySockets destroys the TCP sockets in a network namespace, the caller's
// if it is nil, that lead to the metadata service or the wire server, where
// closed says so of the cgroup of who made the socket, 0 if the kernel does not
// tell. It returns how many.
// The error is errNoDestroy if the kernel cannot. It needs CAP_NET_ADMIN, and
// for another namespace than the caller's CAP_SYS_ADMIN.
func destroySockets(ns *namespace, closed func(cgroupID uint64) closedTo) (n int, err error) {
	config := &netlink.Config{}
	if ns != nil {
		config.NetNS = int(ns.file.Fd())
	}
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, config)
	if err != nil {
		return 0, fmt.Errorf("ask for sockets: %w", err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} { // IPv4-mapped sockets are the latter's
		all, err := c.Execute(diagRequest(sockDiagByFamily, netlink.Dump, family, nil))
		if errors.Is(err, unix.ENOENT) {
			return n, errNoDestroy
		}
		if err != nil {
			return n, fmt.Errorf("list sockets: %w", err)
		}
		for _, m := range all {
			leads, cgroupID, ok := parseSocket(m.Data)
			if !ok || leads == 0 || closed(cgroupID)&leads == 0 {
				continue
			}
			id := m.Data[diagIDInMessage : diagIDInMessage+diagIDSize]
			_, err := c.Execute(diagRequest(sockDestroy, netlink.Acknowledge, family, id))
			switch {
			case err == nil:
				n++
			case errors.Is(err, unix.EOPNOTSUPP):
				return n, errNoDestroy
			case !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESTALE): // else it has ended
				return n, fmt.Errorf("destroy a socket: %w", err)
			}
		}
	}
	return n, nil
}

// diagRequest returns a request for all open TCP sockets of a family, or for the
// one with the identity.
func diagRequest(kind netlink.HeaderType, flags netlink.HeaderFlags, family byte, id []byte) netlink.Message {
	data := make([]byte, diagRequestSize)
	data[0], data[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(data[4:], openStates)
	copy(data[diagIDInRequest:], id)
	return netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request | flags}, Data: data}
}

// parseSocket returns where a socket leads, a bit if it is one of ours, and the
// cgroup of who made it; false for what is too short.
func parseSocket(data []byte) (leads closedTo, cgroupID uint64, ok bool) {
	if len(data) < diagMessageSize {
		return 0, 0, false
	}
	id := data[diagIDInMessage:]
	leads = leadsTo(data[0], id[diagAddressInID:][:16], binary.BigEndian.Uint16(id[diagPortInID:]))
	attributes, err := netlink.NewAttributeDecoder(data[diagMessageSize:])
	if err != nil {
		return 0, 0, false
	}
	for attributes.Next() {
		if attributes.Type() == diagCgroupID {
			cgroupID = attributes.Uint64()
		}
	}
	return leads, cgroupID, attributes.Err() == nil
}

func leadsTo(family byte, address []byte, port uint16) closedTo {
	var at netip.Addr
	if family == unix.AF_INET {
		at, _ = netip.AddrFromSlice(address[:4])
	} else {
		at, _ = netip.AddrFromSlice(address)
	}
	switch at.Unmap() {
	case workload.IMDS:
		return closedToIMDS
	case workload.WireServer:
		if slices.Contains(workload.WireServerPorts(), port) {
			return closedToWireServer
		}
	}
	return 0
}
