package broker

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// fakePaths is the way to one pod.
type fakePaths struct {
	mu       sync.Mutex
	dialled  []workload.Caller
	drops    bool // the pod's packets to IMDS
	readable string
	opened   chan struct{} // closed once the pod has its own listener
	nodeOnly bool
}

func (f *fakePaths) Dial(ctx context.Context, caller workload.Caller, address string) (net.Conn, error) {
	f.mu.Lock()
	f.dialled = append(f.dialled, caller)
	drops := f.drops
	f.mu.Unlock()
	if drops {
		return nil, errors.New("no answer")
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", address)
}

// set changes what the way is like.
func (f *fakePaths) set(change func(*fakePaths)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakePaths) Readable(workload.Connection) (bool, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.readable != "", f.readable
}

func (f *fakePaths) AwaitListener(ctx context.Context, _ workload.Caller) bool {
	f.mu.Lock()
	nodeOnly := f.nodeOnly
	f.mu.Unlock()
	if nodeOnly {
		return false
	}
	select {
	case <-f.opened:
		return true
	case <-ctx.Done():
		return false
	}
}

// A caller whose neighbours can read gets no token: it tries again once its
// own listener is open, and not before.
func TestReadableConnectionBringsNoToken(t *testing.T) {
	r := newRig(t)
	r.paths.set(func(f *fakePaths) { f.readable = "bridge" })
	c := r.dial()
	answered := make(chan reply, 1)
	go func() {
		got, header := c.send(get(tokenTarget))
		if header.Get("Retry-After") != "1" || header.Get("Connection") != "close" {
			t.Errorf("headers %v, want Retry-After: 1 and Connection: close", header)
		}
		answered <- got
	}()
	for len(r.attester.connections()) == 0 {
		select {
		case got := <-answered:
			t.Fatalf("answered before the listener is open: %+v", got)
		default:
		}
	}
	close(r.paths.opened)
	if got := <-answered; got != throttledReply {
		t.Errorf("answer %+v", got)
	}
	c.ended()
	if len(r.tokens.requests()) != 0 {
		t.Error("a token was asked for")
	}
	if n := testutil.ToFloat64(r.server.metrics.exposed.WithLabelValues(exposedRetry)); n != 1 {
		t.Errorf("counted %v, want 1", n)
	}
}

// With node delivery the caller will never have a listener of its own.
func TestReadableConnectionWithNodeDelivery(t *testing.T) {
	r := newRig(t)
	r.paths.set(func(f *fakePaths) { f.readable, f.nodeOnly = "pods share bridge cni0", true })
	c := r.dial()
	got, _ := c.send(get(tokenTarget))
	if got.Status != 400 || !strings.Contains(got.Body, "pods share bridge cni0") {
		t.Errorf("answer %+v", got)
	}
	c.ended()
	if n := testutil.ToFloat64(r.server.metrics.exposed.WithLabelValues(exposedRefused)); n != 1 || len(r.tokens.requests()) != 0 {
		t.Errorf("counted %v, %d tokens asked for; want 1 and none", n, len(r.tokens.requests()))
	}
}

// What drops the pod's own packets to IMDS stands in a splice's way too.
func TestSpliceGoesThePodsWay(t *testing.T) {
	r := newRig(t)
	r.paths.set(func(f *fakePaths) { f.drops = true })
	r.attester.set(func(f *fakeAttester) { f.decision = workload.Decision{Verdict: workload.Pass} })
	c := r.dial()
	if got, _ := c.send(get(tokenTarget)); got != throttledReply {
		t.Errorf("answer %+v", got)
	}
	c.ended()
	if len(r.paths.dialled) != 1 || r.paths.dialled[0] != testCaller || len(r.imds.requests()) != 0 {
		t.Errorf("dialled for %v; IMDS saw %v", r.paths.dialled, r.imds.requests())
	}
}
