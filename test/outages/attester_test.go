package outages

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// attester takes a connection for the pod's whose listener it came by.
type attester struct {
	mu   sync.Mutex
	pods map[uint64]workload.Workload // by the listener's cookie
}

func (a *attester) Inspect(c net.Conn, netnsCookie uint64) (workload.Connection, error) {
	return workload.Connection{NetnsCookie: netnsCookie, Client: c.RemoteAddr().(*net.TCPAddr).AddrPort()}, nil
}

func (a *attester) Attest(c workload.Connection) (workload.Caller, workload.Verdict, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return workload.Caller{PodUID: a.pods[c.NetnsCookie].PodUID, CgroupID: c.NetnsCookie}, workload.Steer, nil
}

func (a *attester) Await(context.Context, workload.Connection, workload.Caller) (workload.Verdict, error) {
	return workload.Steer, nil
}

func (a *attester) Current(c workload.Caller) (workload.Workload, workload.Decision, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pods[c.CgroupID], workload.Decision{Verdict: workload.Steer, Access: workload.Identity}, nil
}

func (a *attester) add(w workload.Workload) (cookie uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	cookie = uint64(len(a.pods) + 1)
	a.pods[cookie] = w
	return cookie
}

// ownListener is the way of a pod that has its own listener.
type ownListener struct{}

func (ownListener) Dial(context.Context, workload.Caller, string) (net.Conn, error) {
	return nil, errors.New("no pod passes here")
}

func (ownListener) Readable(workload.Connection) (bool, string) { return false, "" }

func (ownListener) AwaitListener(context.Context, workload.Caller) bool { return true }
