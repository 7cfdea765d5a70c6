package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/handover"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// task is a part of the agent's work that goes on until its context ends.
type task struct {
	name  string
	after channels // it begins once all of these are closed
	run   func(context.Context) error
}

// start runs the tasks in the group. An error after ctx has ended is none.
func start(ctx context.Context, group *errgroup.Group, tasks []task) {
	for _, t := range tasks {
		group.Go(func() error {
			if !waitFor(ctx, t.after...) {
				return nil
			}
			if err := t.run(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			return nil
		})
	}
}

// waitFor waits until all of the channels are closed; false if ctx ends first.
func waitFor(ctx context.Context, all ...<-chan struct{}) bool {
	for _, ch := range all {
		select {
		case <-ch:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// channels are what a task waits for.
type channels = []<-chan struct{}

// run runs every task until one fails, or ctx ends and the clients have been
// asked to leave.
func (a *agent) run(ctx context.Context) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	group, life := errgroup.WithContext(life)
	listed := channels{a.pods.Ready()}
	all := channels{a.pods.Ready(), a.tree.Ready()}
	served := channels{a.pods.Ready(), a.tree.Ready(), a.attached, a.delivery.Ready()}
	tasks := []task{
		{"pods", nil, a.pods.Run},
		{"cgroups", nil, a.tree.Run},
		{"configuration", nil, a.settings.follow},
		{"broker", nil, a.broker.Run},
		{"events", nil, a.events.Run},
		{"status", nil, a.announcement.serve},
		{"metrics", channels{a.tookOver}, a.metrics.serve},
		{"warm-up", nil, a.upkeep.warmUp},
		{"warm pods", listed, a.upkeep.warmPods},
		{"accounts", listed, a.upkeep.followAccounts},
		{"witness", all, a.upkeep.witness},
		{"taint", served, a.upkeep.removeTaint},
		{"service", nil, func(life context.Context) error {
			err := a.serve(ctx, life)
			if err == nil {
				end()
			}
			return err
		}},
	}
	if a.traces != nil {
		tasks = append(tasks, task{"traces", nil, a.traces.Run})
	}
	start(life, group, tasks)
	return group.Wait()
}

// writers are the tasks of the agent that holds the lock. The verdicts wait for
// all pods and cgroups: a pod that was merely not listed yet must not lose the
// one that the last agent left.
func (a *agent) writers() []task {
	return []task{
		{"announcement", nil, a.announcement.keep},
		{"snapshot", nil, a.upkeep.keepSnapshot},
		{"last config", nil, a.watcher.Keep},
		{"kernel", nil, a.attach},
		{"delivery", channels{a.pods.Ready(), a.tree.Ready()}, a.deliver},
		{"second line", nil, a.line.keep},
		{"node's label", nil, func(ctx context.Context) error { return a.line.followLabel(ctx, a.client.CoreV1().Nodes()) }},
		{"unknown pods", nil, a.watchUnknowns},
		{"map sweep", nil, a.sweep},
		{"guards", nil, a.guards.run},
		{"refresh", nil, a.tokens.Run},
		{"boot guard", nil, a.boot.run},
	}
}

// handleConn hands an accepted connection to the broker. It is here because
// listeners open before the broker is made.
func (a *agent) handleConn(c net.Conn, netnsCookie uint64) { a.broker.HandleConn(c, netnsCookie) }

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
		return errors.Join(err, a.metrics.close(), a.release())
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
	err = handover.Vacant(either, a.options.StateDir)
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
	deadline := time.NewTimer(a.options.DrainTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(outliveTick)
	defer tick.Stop()
	for logged := false; ; logged = true {
		n := steeredRunning(a.pods.Pods(), a.tree.Snapshot())
		if n == 0 || a.options.DrainTimeout == 0 {
			return
		}
		if !logged {
			a.log.Info("serving on while steered pods run", "pods", n, "at_most", a.options.DrainTimeout.String())
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

// askAgain is the first pause after a running agent has not handed over, and
// askAtLeast the longest: one that speaks another version will not.
const (
	askAgain   = 500 * time.Millisecond
	askAtLeast = 8 * time.Second
)

// acquire takes the lock if no other agent has it.
func (a *agent) acquire() (err error) {
	a.lock, err = handover.Acquire(a.options.StateDir)
	if errors.Is(err, handover.ErrHeld) {
		return nil
	}
	return err
}

// takeOver gets the lock and what belongs to it: from the agent that has
// them, once this one could serve in its place, or by itself where there is
// none.
func (a *agent) takeOver(ctx context.Context) error {
	var state *handover.State
	if a.lock == nil {
		a.log.Info("another agent serves; taking over once all is known")
		if err := a.awaitTurn(ctx); err != nil {
			return err
		}
		var err error
		if state, err = a.succeed(ctx); err != nil {
			return err
		}
		// Others may have come and gone since this agent's start.
		if err := a.hooks.LookForOthers(); err != nil {
			return err
		}
	}
	if err := a.announcement.make(); err != nil {
		return err
	}
	var pods []delivery.ExportedListener
	if state != nil {
		pods = a.inherit(state)
	}
	if err := a.openOwn(ctx); err != nil {
		return err
	}
	a.delivery.Adopt(pods)
	return nil
}

// awaitTurn waits until everything is known that it takes to serve, or no agent serves.
// While somebody does, a snapshot is not good enough: he knows more than that.
func (a *agent) awaitTurn(ctx context.Context) error {
	until, come := context.WithCancel(ctx)
	defer come()
	go func() {
		if waitFor(until, a.pods.Ready(), a.tree.Ready()) {
			come()
		}
	}()
	err := handover.Vacant(until, a.options.StateDir)
	if until.Err() != nil {
		return ctx.Err()
	}
	return err
}

// succeed asks the running agent until it hands over, or is gone without
// having done so. The state is nil then.
func (a *agent) succeed(ctx context.Context) (*handover.State, error) {
	for pause := askAgain; ; pause = min(2*pause, askAtLeast) {
		lock, state, err := handover.Take(ctx, a.options.StateDir)
		if err == nil {
			a.lock = lock
			return state, nil
		}
		if takeErr := a.acquire(); takeErr != nil || a.lock != nil {
			return nil, takeErr
		}
		a.log.Warn("the running agent has not handed over", "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// inherit takes what of the state this agent would have made itself, and
// returns the pods' listeners. The rest is closed.
func (a *agent) inherit(state *handover.State) (pods []delivery.ExportedListener) {
	for _, l := range state.Listeners {
		switch {
		case l.Role == handover.Pod:
			pods = append(pods, delivery.ExportedListener{PodUID: l.PodUID, Inode: l.Inode, Listener: l.Listener})
			continue
		case l.Role == handover.Metrics && l.Address == a.options.MetricsAddress:
			a.metrics.listener.Store(&l.Listener)
			continue
		case l.Role == handover.Node && l.Address == a.options.Listen.String():
			node, err := delivery.AdoptNode(a.hooks, l.Listener, a.log)
			if err == nil {
				a.node = node
				continue
			}
			a.log.Warn("the node listener cannot be taken over", "err", err)
		}
		_ = l.Close()
	}
	inUse := slices.Collect(maps.Values(accountsInUse(a.pods)))
	known := func(uid string) bool { return slices.Contains(inUse, uid) }
	tokens, err := a.tokens.Import(state.Tokens, known)
	if err != nil {
		a.log.Warn("not all cached tokens were taken over", "err", err)
	}
	a.log.Info("taken over from another agent", "pod_listeners", len(pods), "tokens", tokens, "handover_version", state.Version)
	return pods
}

// openOwn opens what was not taken over.
func (a *agent) openOwn(ctx context.Context) (err error) {
	if a.self != 0 {
		// Programs that an earlier agent attached keep others from the port.
		if err := a.hooks.SetVerdict(a.self, delivery.OwnEntry()); err != nil {
			return err
		}
	}
	if a.node == nil {
		if a.node, err = delivery.ListenNode(a.hooks, a.options.Listen, a.log); err != nil {
			return err
		}
	}
	if a.metrics.listener.Load() == nil {
		err = a.metrics.open(ctx)
	}
	close(a.tookOver)
	return err
}

// handoverState returns what a successor gets.
func (a *agent) handoverState() handover.State {
	var state handover.State
	if l := a.node.Listener(); l != nil {
		state.Listeners = append(state.Listeners, handover.Listener{
			Role: handover.Node, Address: a.options.Listen.String(), Listener: l,
		})
	}
	if l := a.metrics.listener.Load(); l != nil {
		state.Listeners = append(state.Listeners, handover.Listener{
			Role: handover.Metrics, Address: a.options.MetricsAddress, Listener: *l,
		})
	}
	for _, h := range a.delivery.Export() {
		state.Listeners = append(state.Listeners, handover.Listener{
			Role: handover.Pod, PodUID: h.PodUID, Inode: h.Inode, Listener: h.Listener,
		})
	}
	var err error
	if state.Tokens, err = a.tokens.Export(); err != nil {
		a.log.Warn("the cached tokens are not handed over", "err", err)
	}
	return state
}
