package attest

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

var (
	refA    = workload.CgroupRef{PodUID: "a", ContainerID: "c1"}
	callerA = workload.Caller{PodUID: "a", ContainerID: "c1", CgroupID: 42}
)

func newAttestor(k *kernel, p *pods, c clock.Clock) *Attestor {
	return New(Options{
		Flows: k, Cgroups: k, Pods: p, Clock: c,
		Log:        slog.New(slog.DiscardHandler),
		Registerer: prometheus.NewRegistry(),
	})
}

func TestAttest(t *testing.T) {
	for _, v := range []workload.Verdict{workload.Steer, workload.Pass, workload.Deny} {
		k, p := newKernel(), newPods()
		p.set(refA, v)
		got, verdict, err := newAttestor(k, p, nil).Attest(conn)
		if err != nil || got != callerA || verdict != v {
			t.Errorf("%s: Attest = %+v, %s, %v, want %+v", v, got, verdict, err, callerA)
		}
		if n := p.subscribed(); n != 0 {
			t.Errorf("%s: %d subscriptions left", v, n)
		}
	}
}

func TestAttestRefuses(t *testing.T) {
	otherNetns := conn
	otherNetns.NetnsCookie++
	otherPort := conn
	otherPort.Client = netip.MustParseAddrPort("127.0.0.1:40001")
	tests := map[string]struct {
		conn   workload.Connection
		change func(*kernel)
		want   error
		reason string
	}{
		"dialled the listener":       {otherPort, func(*kernel) {}, ErrNoFlow, "no_flow"},
		"same address elsewhere":     {otherNetns, func(*kernel) {}, ErrNoFlow, "no_flow"},
		"claimed twice":              {conn, func(k *kernel) { k.doubled[conn] = true }, ErrAmbiguous, "ambiguous"},
		"cgroup gone":                {conn, func(k *kernel) { k.remove(42) }, ErrGone, "gone"},
		"not a pod":                  {conn, func(k *kernel) { k.broken = errNotPod }, ErrNotPod, "not_pod"},
		"cgroup cannot be looked up": {conn, func(k *kernel) { k.broken = errors.New("EPERM") }, ErrNotPod, "not_pod"},
		"no descriptors left":        {conn, func(k *kernel) { k.broken = syscall.EMFILE }, ErrExhausted, "exhausted"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			k, p := newKernel(), newPods()
			p.set(refA, workload.Steer)
			tc.change(k)
			a := newAttestor(k, p, nil)
			got, verdict, err := a.Attest(tc.conn)
			if !errors.Is(err, tc.want) || got != (workload.Caller{}) || verdict != workload.Unknown {
				t.Fatalf("Attest = %+v, %s, %v, want %v", got, verdict, err, tc.want)
			}
			if isUnknown(err) != errors.Is(tc.want, ErrExhausted) {
				t.Errorf("says Unknown: %t", isUnknown(err))
			}
			for _, r := range reasons {
				want := 0.0
				if r.label == tc.reason {
					want = 1
				}
				if n := testutil.ToFloat64(a.failures.WithLabelValues(r.label)); n != want {
					t.Errorf("failures{reason=%q} = %v, want %v", r.label, n, want)
				}
			}
		})
	}
}

func TestAttestOncePerConnection(t *testing.T) {
	k, p := newKernel(), newPods()
	p.set(refA, workload.Steer)
	a := newAttestor(k, p, nil)
	if _, _, err := a.Attest(conn); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Attest(conn); !errors.Is(err, ErrNoFlow) {
		t.Errorf("second Attest: %v, want ErrNoFlow", err)
	}
}

func TestDecisionIsTheContainers(t *testing.T) {
	k, p := newKernel(), newPods()
	p.set(refA, workload.Steer)
	p.set(workload.CgroupRef{PodUID: "a"}, workload.Unknown)
	skipped := workload.CgroupRef{PodUID: "a", ContainerID: "c2"}
	p.set(skipped, workload.Pass)
	k.put(43, skipped)
	second := conn
	second.Client = netip.MustParseAddrPort("127.0.0.1:40001")
	k.flows[second] = 43
	a := newAttestor(k, p, nil)
	for c, want := range map[workload.Connection]workload.Verdict{conn: workload.Steer, second: workload.Pass} {
		caller, verdict, err := a.Attest(c)
		if err != nil {
			t.Fatal(err)
		}
		w, d, err := a.Current(caller)
		if err != nil || d.Verdict != want || verdict != want || w.PodUID != "a" {
			t.Errorf("Current(%+v) = %+v, %+v, %v, want %s", caller, w, d, err, want)
		}
	}
}

// result is what a held caller came back with.
type result struct {
	caller  workload.Caller
	verdict workload.Verdict
	err     error
}

// hold attests a caller of an unknown pod, and returns once Await has looked.
func hold(ctx context.Context, t *testing.T, a *Attestor, p *pods) <-chan result {
	t.Helper()
	caller, verdict, err := a.Attest(conn)
	if err != nil || verdict != workload.Unknown {
		t.Fatalf("Attest = %s, %v, want unknown", verdict, err)
	}
	p.looked = make(chan struct{})
	done := make(chan result, 1)
	go func() {
		verdict, err := a.Await(ctx, conn, caller)
		done <- result{caller, verdict, err}
	}()
	<-p.looked // after it has subscribed
	return done
}

func TestHoldUntilKnown(t *testing.T) {
	k, p := newKernel(), newPods()
	p.set(refA, workload.Unknown)
	done := hold(t.Context(), t, newAttestor(k, p, nil), p)
	p.set(workload.CgroupRef{PodUID: "b"}, workload.Steer) // another pod's change
	<-p.looked
	p.set(refA, workload.Steer)
	<-p.looked
	if r := <-done; r.err != nil || r.caller != callerA || r.verdict != workload.Steer {
		t.Errorf("held = %+v, %s, %v", r.caller, r.verdict, r.err)
	}
}

func TestHoldUntilGone(t *testing.T) {
	k, p := newKernel(), newPods()
	done := hold(t.Context(), t, newAttestor(k, p, nil), p)
	k.remove(42)
	p.set(refA, workload.Steer)
	if r := <-done; !errors.Is(r.err, ErrGone) {
		t.Errorf("Await = %s, %v, want ErrGone", r.verdict, r.err)
	}
}

func TestHoldEnds(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Unix(0, 0))
	ctx, cancel := context.WithCancel(t.Context())
	tests := map[string]struct {
		ctx context.Context
		end func()
	}{
		"time":    {t.Context(), func() { clk.Step(defaultHold) }},
		"context": {ctx, cancel},
	}
	for name, tc := range tests {
		k, p := newKernel(), newPods()
		a := newAttestor(k, p, clk)
		done := hold(tc.ctx, t, a, p)
		tc.end()
		r := <-done
		if !errors.Is(r.err, ErrUnknownPod) || !isUnknown(r.err) || r.verdict != workload.Unknown {
			t.Errorf("%s: Await = %s, %v, want ErrUnknownPod", name, r.verdict, r.err)
		}
		if n := testutil.ToFloat64(a.failures.WithLabelValues("unknown_pod")); n != 1 {
			t.Errorf("%s: failures{reason=unknown_pod} = %v, want 1", name, n)
		}
		if n := p.subscribed(); n != 0 {
			t.Errorf("%s: %d subscriptions left", name, n)
		}
	}
}

func isUnknown(err error) bool {
	var u interface{ Unknown() bool }
	return errors.As(err, &u) && u.Unknown()
}
