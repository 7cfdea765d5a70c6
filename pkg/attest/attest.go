package attest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// defaultHold is how long a caller is held whose pod is not known yet. Clients
// of the instance metadata service were seen to wait 35 seconds for an answer.
const defaultHold = 25 * time.Second

// Flows has the kernel's records of steered connections.
type Flows interface {
	// Claim returns the id of the cgroup that made the connection and takes
	// the record away, so that it proves one connection only. An error in
	// whose chain Ambiguous() returns true says that more than one connection
	// claims to be this one.
	Claim(workload.Connection) (cgroupID uint64, err error)
}

// Cgroups knows which pod a cgroup belongs to.
type Cgroups interface {
	// Resolve asks the kernel again each time. An error that satisfies
	// errors.Is with fs.ErrNotExist says that the cgroup is gone.
	Resolve(cgroupID uint64) (workload.CgroupRef, error)
}

// Pods knows this node's pods and what the rules say about them.
type Pods interface {
	// Lookup reports false for a pod that is not known.
	Lookup(workload.CgroupRef) (workload.Workload, workload.Decision, bool)
	// Subscribe returns a channel that gets a value after a change, and the
	// function that ends the subscription.
	Subscribe() (<-chan struct{}, func())
}

// Options are what an Attestor works with.
type Options struct {
	Flows      Flows
	Cgroups    Cgroups
	Pods       Pods
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Hold       time.Duration // 0: 25 s
	Clock      clock.Clock   // nil: the real one
}

// Attestor proves who is calling. Its methods may be called from several
// goroutines.
type Attestor struct {
	flows    Flows
	cgroups  Cgroups
	pods     Pods
	log      *slog.Logger
	hold     time.Duration
	clock    clock.Clock
	failures *prometheus.CounterVec
}

// New returns an Attestor whose metrics are registered with the registerer.
func New(o Options) *Attestor {
	a := &Attestor{
		flows: o.Flows, cgroups: o.Cgroups, pods: o.Pods,
		log: o.Log, hold: o.Hold, clock: o.Clock,
		failures: newFailures(o.Registerer),
	}
	if a.hold == 0 {
		a.hold = defaultHold
	}
	if a.clock == nil {
		a.clock = clock.RealClock{}
	}
	return a
}

// Attest returns who made the connection, a connection that is established at
// the time of the call (see Inspect), and the verdict on that caller, without
// blocking. Each connection may be asked for once. A verdict of Unknown says
// that the pod, or the rules' word on it, is not known yet: Await knows more
// later. The errors are ErrNoFlow, ErrAmbiguous, ErrGone, ErrNotPod,
// ErrNoContainer and ErrExhausted.
func (a *Attestor) Attest(conn workload.Connection) (workload.Caller, workload.Verdict, error) {
	caller, verdict, err := a.attest(conn)
	if err != nil {
		a.refuse(conn, err)
		return workload.Caller{}, workload.Unknown, err
	}
	return caller, verdict, nil
}

// Await holds a caller on whom Attest's verdict was Unknown until there is
// another, which it returns. The errors are ErrGone, ErrNotPod, ErrNoContainer
// and, after the hold or when ctx is done, ErrUnknownPod.
func (a *Attestor) Await(ctx context.Context, conn workload.Connection, caller workload.Caller) (workload.Verdict, error) {
	verdict, err := a.wait(ctx, caller.CgroupID)
	if err != nil {
		a.refuse(conn, err)
	}
	return verdict, err
}

// refuse counts a refusal. The one that serves the connection tells the log.
func (a *Attestor) refuse(conn workload.Connection, err error) {
	reason := reasonOf(err)
	a.failures.WithLabelValues(reason).Inc()
	a.log.Debug("caller refused", "reason", reason, "err", err,
		"client", conn.Client, "server", conn.Server, "netns_cookie", conn.NetnsCookie)
}

func (a *Attestor) attest(conn workload.Connection) (workload.Caller, workload.Verdict, error) {
	id, err := a.claim(conn)
	if err != nil {
		return workload.Caller{}, workload.Unknown, err
	}
	return a.look(id)
}

// wait holds a caller on whom there is no verdict until there is one.
func (a *Attestor) wait(ctx context.Context, id uint64) (workload.Verdict, error) {
	// Subscribed before the first look, so that no change is missed.
	changed, unsubscribe := a.pods.Subscribe()
	defer unsubscribe()
	timer := a.clock.NewTimer(a.hold)
	defer timer.Stop()
	for {
		caller, verdict, err := a.look(id)
		if verdict != workload.Unknown || err != nil {
			return verdict, err
		}
		select {
		case <-changed:
		case <-timer.C():
			return workload.Unknown, fmt.Errorf("%w: pod UID %s after %s", ErrUnknownPod, caller.PodUID, a.hold)
		case <-ctx.Done():
			return workload.Unknown, fmt.Errorf("%w: pod UID %s: %w", ErrUnknownPod, caller.PodUID, ctx.Err())
		}
	}
}

// look returns the caller whose cgroup it is, and the verdict on it, Unknown
// where its pod is not known or not decided on. A cgroup that is gone, or no
// pod's, is an error, and so is one that will never have a verdict.
func (a *Attestor) look(id uint64) (workload.Caller, workload.Verdict, error) {
	ref, err := a.resolve(id)
	if err != nil {
		return workload.Caller{}, workload.Unknown, err
	}
	caller := workload.Caller{PodUID: ref.PodUID, ContainerID: ref.ContainerID, CgroupID: id}
	_, decision, ok := a.pods.Lookup(ref)
	if !ok {
		return caller, workload.Unknown, nil
	}
	// A container becomes known with its name; who is in the pod's own cgroup
	// does not.
	if ref.ContainerID == "" && decision.Reason == workload.ReasonContainerUnknown {
		return workload.Caller{}, workload.Unknown, fmt.Errorf("%w: pod UID %s", ErrNoContainer, ref.PodUID)
	}
	return caller, decision.Verdict, nil
}

// Current returns what is known now about a caller that Attest returned: its
// workload and the decision on it, which may have become Unknown since. It
// returns ErrGone if the caller's cgroup or its pod is no more, and
// ErrExhausted if that cannot be looked for now.
func (a *Attestor) Current(caller workload.Caller) (workload.Workload, workload.Decision, error) {
	ref, err := a.cgroups.Resolve(caller.CgroupID)
	if workload.Exhausted(err) {
		return workload.Workload{}, workload.Decision{}, fmt.Errorf("%w: %w", ErrExhausted, err)
	}
	if err != nil { // whatever it is: a caller that cannot be found gets nothing
		return workload.Workload{}, workload.Decision{}, fmt.Errorf("%w: %w", ErrGone, err)
	}
	if ref.PodUID != caller.PodUID || ref.ContainerID != caller.ContainerID {
		return workload.Workload{}, workload.Decision{}, fmt.Errorf("%w: cgroup %d is now of pod UID %s, not %s",
			ErrGone, caller.CgroupID, ref.PodUID, caller.PodUID)
	}
	w, decision, ok := a.pods.Lookup(ref)
	if !ok {
		return workload.Workload{}, workload.Decision{}, fmt.Errorf("%w: pod UID %s", ErrGone, ref.PodUID)
	}
	return w, decision, nil
}

// claim asks the flow records, and turns what else can go wrong there into a
// refusal too: a record that cannot be read proves nothing.
func (a *Attestor) claim(conn workload.Connection) (uint64, error) {
	id, err := a.flows.Claim(conn)
	if err == nil {
		return id, nil
	}
	var flow interface{ Ambiguous() bool }
	if errors.As(err, &flow) && flow.Ambiguous() {
		return 0, fmt.Errorf("%w: %w", ErrAmbiguous, err)
	}
	return 0, fmt.Errorf("%w: %w", ErrNoFlow, err)
}

func (a *Attestor) resolve(id uint64) (workload.CgroupRef, error) {
	ref, err := a.cgroups.Resolve(id)
	switch {
	case err == nil:
		return ref, nil
	case errors.Is(err, fs.ErrNotExist):
		return workload.CgroupRef{}, fmt.Errorf("%w: %w", ErrGone, err)
	case workload.Exhausted(err):
		return workload.CgroupRef{}, fmt.Errorf("%w: %w", ErrExhausted, err)
	default:
		return workload.CgroupRef{}, fmt.Errorf("%w: %w", ErrNotPod, err)
	}
}
