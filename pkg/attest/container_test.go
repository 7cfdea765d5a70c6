package attest

import (
	"errors"
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

var containerUnknown = workload.Decision{Verdict: workload.Unknown, Reason: workload.ReasonContainerUnknown}

// A container that asks before the cluster has reported its name is held, and
// known as soon as that is.
func TestContainerThatIsNotKnownYetIsHeld(t *testing.T) {
	for _, v := range []workload.Verdict{workload.Steer, workload.Pass} {
		k, p := newKernel(), newPods()
		p.setDecision(refA, containerUnknown)
		a := newAttestor(k, p, nil)
		caller, verdict, err := a.Attest(conn)
		if err != nil || verdict != workload.Unknown || caller != callerA {
			t.Fatalf("Attest = %+v, %s, %v; want %+v, not known yet", caller, verdict, err, callerA)
		}
		p.looked = make(chan struct{})
		type result struct {
			verdict workload.Verdict
			err     error
		}
		known := make(chan result)
		go func() {
			v, err := a.Await(t.Context(), conn, caller)
			known <- result{v, err}
		}()
		<-p.looked // it is not known at first
		p.set(refA, v)
		<-p.looked
		if got := <-known; got.err != nil || got.verdict != v {
			t.Errorf("Await = %s, %v; want %s", got.verdict, got.err, v)
		}
	}
}

// Who is in the pod's own cgroup, in none of its containers, is refused at once
// where those are decided on one by one, also if that shows while it is held.
func TestCallerInNoContainerIsRefusedAtOnce(t *testing.T) {
	refPod := workload.CgroupRef{PodUID: "a"}
	k, p := newKernel(), newPods()
	k.put(42, refPod)
	p.setDecision(refPod, containerUnknown)
	a := newAttestor(k, p, nil)
	if _, _, err := a.Attest(conn); !errors.Is(err, ErrNoContainer) || isUnknown(err) {
		t.Errorf("Attest: %v, want ErrNoContainer, which is final", err)
	}
	p.forget(refPod)
	k.flows[conn] = 42
	caller, verdict, err := a.Attest(conn)
	if err != nil || verdict != workload.Unknown {
		t.Fatalf("Attest = %s, %v; want not known yet", verdict, err)
	}
	p.setDecision(refPod, containerUnknown)
	if _, err := a.Await(t.Context(), conn, caller); !errors.Is(err, ErrNoContainer) {
		t.Errorf("Await: %v, want ErrNoContainer", err)
	}
	// What the whole pod waits for is waited for.
	p.setDecision(refPod, workload.Decision{Verdict: workload.Unknown, Reason: "service account not seen"})
	k.flows[conn] = 42
	if _, verdict, err := a.Attest(conn); err != nil || verdict != workload.Unknown {
		t.Errorf("Attest = %s, %v; want not known yet", verdict, err)
	}
}
