package main

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/handover"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// linger is how long an agent that was asked to stop goes on serving, while
// clients keep connections open that they have not been asked to leave. With
// the 25 s that requests then have it is below the pod's grace period
// (manifests/base/daemonset.yaml). An idle connection is closed without notice after
// that time only.
const linger = 30 * time.Second

// errSuccessorGone ends an agent that has handed over to one that has ended
// since: whoever restarts it has it serve again.
var errSuccessorGone = errors.New("the agent that took over has ended")

// serve serves pods until ctx ends and their clients know, or a successor does
// so. life ends when another of the agent's tasks has failed.
func (a *agent) serve(ctx, life context.Context) error {
	until, cancel := context.WithCancel(life)
	defer cancel()
	stop := context.AfterFunc(ctx, cancel)
	defer stop()
	if err := a.takeOver(until); err != nil {
		if until.Err() != nil {
			return nil
		}
		return err
	}
	accepting, refuse := context.WithCancel(life)
	defer refuse()
	closed := make(chan error, 1)
	go func() { closed <- a.node.Run(accepting, a.handleConn) }()
	successor, err := a.hold(ctx, life)
	refuse()
	err = errors.Join(err, <-closed)
	a.delivery.Close()
	if successor == nil {
		// Now, and not when the last request is answered: who comes next need
		// not wait for that.
		return errors.Join(err, a.closeMetrics(), a.release())
	}
	return a.retire(ctx, life, successor)
}

// hold does the work of the lock's holder until an agent has taken over, which
// is returned. Once ctx has ended it serves on until no steered pod runs or
// --drain-timeout is over, and until all clients have been asked to leave.
func (a *agent) hold(ctx, life context.Context) (*handover.Successor, error) {
	until, cancel := context.WithCancel(life)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		a.outlive(until)
		a.broker.Drain()
		a.drain(life)
		cancel()
	})
	defer stop()
	for until.Err() == nil {
		successor, err := a.write(until)
		if err != nil || successor == nil {
			return nil, err
		}
		// Until this agent has closed its listeners, connections come to it that
		// the successor's programs have steered.
		if err := a.hooks.LookForOthers(); err != nil {
			a.log.Warn("the successor's maps cannot be read", "err", err)
		}
		err = successor.Offer(a.handoverState())
		if err == nil {
			return successor, nil
		}
		a.log.Warn("the hand-over failed; this agent goes on", "err", err)
		_ = successor.Close()
	}
	return nil, nil
}

// write keeps the kernel's maps until another agent asks for the lock, which
// is returned, or until ends.
func (a *agent) write(until context.Context) (*handover.Successor, error) {
	until, stop := context.WithCancel(until)
	defer stop()
	group, until := errgroup.WithContext(until)
	start(until, group, a.writers())
	successor, err := a.lock.Successor(until, a.log)
	if until.Err() != nil {
		err = nil // the tasks say why
	}
	stop()
	err = errors.Join(err, group.Wait())
	err = errors.Join(err, a.settings.detach())
	if err != nil && successor != nil {
		_ = successor.Close()
	}
	return successor, err
}

// retire releases what the successor has, and waits until this agent's own
// connections have ended and it is asked to stop. It stays until then: a program
// that ends in a pod is started again.
func (a *agent) retire(ctx, life context.Context, successor *handover.Successor) error {
	close(a.retired)
	a.broker.Drain()
	err := successor.Release()
	a.lock = nil
	if err != nil {
		a.log.Warn("the successor may not have heard that it has taken over", "err", err)
	}
	a.log.Info("another agent has taken over")
	either, cancel := context.WithCancel(life)
	defer cancel()
	stop := context.AfterFunc(ctx, cancel)
	defer stop()
	err = handover.Vacant(either, a.options.stateDir)
	if either.Err() == nil {
		return errors.Join(errSuccessorGone, err)
	}
	a.drain(life)
	return nil
}

// release gives up the lock, if this agent has it.
func (a *agent) release() error {
	if a.lock == nil {
		return nil
	}
	err := a.lock.Release()
	a.lock = nil
	return err
}

// outliveTick is how often it is looked whether steered pods still run.
const outliveTick = time.Second

// outlive waits until no steered pod runs any more, --drain-timeout is over or
// until ends: on a node that is drained pods may need a token for their last
// words, and the agent may have been asked to stop with them.
func (a *agent) outlive(until context.Context) {
	if a.settings.active().Mode == config.ModeAudit {
		return // they are not served by this agent
	}
	deadline := time.NewTimer(a.options.drainTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(outliveTick)
	defer tick.Stop()
	for logged := false; ; logged = true {
		n := steeredRunning(a.pods.Pods(), a.tree.Snapshot())
		if n == 0 || a.options.drainTimeout == 0 {
			return
		}
		if !logged {
			a.log.Info("serving on while steered pods run", "pods", n, "at_most", a.options.drainTimeout.String())
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			a.log.Warn("steered pods still run and are refused from now on", "pods", n)
			return
		case <-until.Done():
			return
		}
	}
}

// steeredRunning returns how many of the pods are steered and have a cgroup.
func steeredRunning(pods []workload.Pod, running []workload.PodCgroup) (n int) {
	steered := make(map[string]bool)
	for _, p := range pods {
		steered[p.UID] = p.Steered()
	}
	for _, cg := range running {
		if steered[cg.UID] {
			n++
		}
	}
	return n
}

// drain waits until no client has a connection, but not for longer than linger.
func (a *agent) drain(life context.Context) {
	ctx, cancel := context.WithTimeout(life, linger)
	defer cancel()
	a.log.Info("waiting for clients to leave", "at_most", linger.String())
	if !a.broker.WaitIdle(ctx) {
		a.log.Info("some clients kept idle connections")
	}
}
