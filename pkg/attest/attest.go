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

// DefaultHold is how long a caller is held whose pod is not known yet. Clients
// of the instance metadata service were seen to wait 35 seconds for an answer.
const DefaultHold = 25 * time.Second

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
	// Resolve asks the kernel anew each time. An error that satisfies
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
	Hold       time.Duration // 0: DefaultHold
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
		a.hold = DefaultHold
	}
	if a.clock == nil {
		a.clock = clock.RealClock{}
	}
	return a
}

// Attest returns who made the connection, a connection that is established at
// the time of the call (see Inspect). Each connection may be asked for once.
// A caller whose pod, or the rules' word on it, is not known yet is held until
// it is. The errors are ErrNoFlow, ErrAmbiguous, ErrGone, ErrNotPod,
// ErrExhausted and, after the hold or when ctx is done, ErrUnknownPod. The decision on the caller may
// be any other than Unknown: ask Current.
func (a *Attestor) Attest(ctx context.Context, conn workload.Connection) (workload.Caller, error) {
	caller, err := a.attest(ctx, conn)
	if err != nil {
		a.refuse(conn, err)
		return workload.Caller{}, err
	}
	return caller, nil
}

// refuse counts a refusal. The one that serves the connection tells the log.
func (a *Attestor) refuse(conn workload.Connection, err error) {
	reason := reasonOf(err)
	a.failures.WithLabelValues(reason).Inc()
	a.log.Debug("caller refused", "reason", reason, "err", err,
		"client", conn.Client, "server", conn.Server, "netns_cookie", conn.NetnsCookie)
}

func (a *Attestor) attest(ctx context.Context, conn workload.Connection) (workload.Caller, error) {
	id, err := a.claim(conn)
	if err != nil {
		return workload.Caller{}, err
	}
	caller, known, err := a.look(id)
	if known || err != nil {
		return caller, err
	}
	return a.wait(ctx, id)
}

// wait holds a caller whose pod is not known until it is.
func (a *Attestor) wait(ctx context.Context, id uint64) (workload.Caller, error) {
	// Subscribed before the first look, so that no change is missed.
	changed, unsubscribe := a.pods.Subscribe()
	defer unsubscribe()
	timer := a.clock.NewTimer(a.hold)
	defer timer.Stop()
	for {
		caller, known, err := a.look(id)
		if known || err != nil {
			return caller, err
		}
		select {
		case <-changed:
		case <-timer.C():
			return workload.Caller{}, fmt.Errorf("%w: pod UID %s after %s", ErrUnknownPod, caller.PodUID, a.hold)
		case <-ctx.Done():
			return workload.Caller{}, fmt.Errorf("%w: pod UID %s: %w", ErrUnknownPod, caller.PodUID, ctx.Err())
		}
	}
}

// look returns the caller whose cgroup it is, and whether its pod is known and
// decided on. A cgroup that is gone, or no pod's, is an error.
func (a *Attestor) look(id uint64) (_ workload.Caller, known bool, _ error) {
	ref, err := a.resolve(id)
	if err != nil {
		return workload.Caller{}, false, err
	}
	_, decision, ok := a.pods.Lookup(ref)
	known = ok && decision.Verdict != workload.Unknown
	return workload.Caller{PodUID: ref.PodUID, ContainerID: ref.ContainerID, CgroupID: id}, known, nil
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
