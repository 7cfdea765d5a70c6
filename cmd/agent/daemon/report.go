package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/status"
	"github.com/sidestep-agent/sidestep/pkg/tokens"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// reporter gathers what people are told of a running agent.
type reporter struct{ agent *agent }

// report returns what `agent status` shows.
func (r reporter) report() status.Report {
	to := status.Report{
		Version: r.agent.options.Version, Node: r.agent.options.NodeName, Since: r.agent.since,
		Mode: string(r.agent.settings.active().Mode), Delivery: r.agent.options.Delivery, TokenRequest: r.agent.options.TokenRequest,
		Ready: true, Counters: make(map[string]uint64),
	}
	if err := r.agent.ready(); err != nil {
		to.Ready = false
		to.Problems = append(to.Problems, "not ready: "+err.Error())
	}
	to.StaleSince, _ = r.agent.pods.Stale()
	guard, _ := r.agent.options.effectiveGuard()
	to.Guard = guard
	to.Configuration = r.configuration()
	to.Problems = append(to.Problems, r.configurationProblems()...)
	to.Problems = append(to.Problems, r.agent.options.Problems...)
	to.Problems = append(to.Problems, r.agent.upkeep.problems()...)
	to.Problems = append(to.Problems, r.agent.guards.problems()...)
	to.SecondLine, _ = r.agent.line.state()
	to.Problems = append(to.Problems, r.agent.line.problems()...)
	boot, problems := r.agent.boot.status()
	to.BootGuard = boot
	to.Problems = append(to.Problems, problems...)
	to.Problems = append(to.Problems, circuitProblems(r.agent.tokens.Circuits())...)
	connects, err := r.agent.hooks.Connects()
	if err != nil {
		to.Problems = append(to.Problems, err.Error())
	}
	for _, c := range connects {
		to.Counters[c.Verdict] += c.Count
	}
	r.addPods(&to)
	r.addServiceAccounts(&to)
	return to
}

func (r reporter) addPods(to *status.Report) {
	listeners := r.agent.delivery.Listeners()
	cgroupIDs := make(map[string]uint64)
	for _, cg := range r.agent.tree.Snapshot() {
		cgroupIDs[cg.UID] = cg.CgroupID
	}
	for _, p := range r.agent.pods.Pods() {
		w, _, _ := r.agent.pods.Lookup(workload.CgroupRef{PodUID: p.UID})
		pod := status.Pod{
			Namespace: p.Namespace, Name: p.Name, UID: p.UID, ServiceAccount: p.ServiceAccount,
			ClientID: w.ClientID, Verdict: p.Decision.Verdict.String(), Reason: p.Decision.Reason,
			Listener: listeners[p.UID], CgroupID: cgroupIDs[p.UID], Containers: containersOf(p), Token: r.lastAnswer(p.UID),
		}
		if p.Steered() {
			pod.Access = p.Decision.Access.String()
		}
		if problem := r.notApplied(p, pod.CgroupID); problem != "" {
			to.Problems = append(to.Problems, problem)
		}
		to.Pods = append(to.Pods, pod)
	}
}

// containersOf returns the pod's containers where they differ, by id.
func containersOf(p workload.Pod) []status.Container {
	var containers []status.Container
	for _, id := range slices.Sorted(maps.Keys(p.Containers)) {
		d := p.Containers[id]
		c := status.Container{ID: id, Verdict: d.Verdict.String(), Reason: d.Reason}
		if d.Verdict == workload.Steer {
			c.Access = d.Access.String()
		}
		containers = append(containers, c)
	}
	return containers
}

// notApplied says if the kernel does not do with a running pod what the rules
// say.
func (r reporter) notApplied(p workload.Pod, cgroupID uint64) string {
	if cgroupID == 0 || p.Decision.Verdict == workload.Unknown { // its containers have verdicts of their own
		return ""
	}
	entry, ok, err := r.agent.hooks.Verdict(cgroupID)
	switch {
	case err != nil:
		return err.Error()
	case !ok || entry.Verdict != p.Decision.Verdict:
		return fmt.Sprintf("pod %s/%s: %s is not applied yet, the pod is held", p.Namespace, p.Name, p.Decision.Verdict)
	}
	return ""
}

func (r reporter) addServiceAccounts(to *status.Report) {
	exchanges := make(map[[2]string]tokens.Exchange)
	for _, e := range r.agent.tokens.Exchanges() {
		exchanges[[2]string{e.Namespace, e.ServiceAccount}] = e
	}
	seen := make(map[[2]string]bool)
	for _, p := range r.agent.pods.Pods() {
		key := [2]string{p.Namespace, p.ServiceAccount}
		if seen[key] {
			continue
		}
		seen[key] = true
		w, _, _ := r.agent.pods.Lookup(workload.CgroupRef{PodUID: p.UID})
		e := exchanges[key]
		account := status.ServiceAccount{
			Namespace: p.Namespace, Name: p.ServiceAccount, ClientID: w.ClientID,
			TenantID:     cmp.Or(w.TenantID, r.agent.options.TenantID),
			LastExchange: e.At, ExpiresOn: e.ExpiresOn, LastError: lastError(e.Outcome), Fix: e.Fix,
		}
		to.ServiceAccounts = append(to.ServiceAccounts, account)
	}
}

// lastAnswer returns how the pod's last request was answered; nil: it made none.
func (r reporter) lastAnswer(podUID string) *status.Answer {
	last, ok := r.agent.tokens.LastAnswer(podUID)
	if !ok {
		return nil
	}
	return &status.Answer{
		At: last.At, ExpiresOn: last.ExpiresOn, Error: lastError(last.Outcome), Fix: last.Fix, Explained: last.Explained(),
	}
}

// lastError returns the error in plain words where they are known.
func lastError(e tokens.Outcome) string {
	if e.Meaning != "" {
		return e.ErrorCode + ": " + e.Meaning
	}
	return e.Error
}

// circuitProblems says whom Entra does not answer for.
func circuitProblems(circuits []tokens.Circuit) []string {
	var problems []string
	for _, c := range circuits {
		who := "tenant " + c.Tenant
		if c.ClientID != "" {
			who = "client " + c.ClientID + " of " + who
		}
		problems = append(problems, fmt.Sprintf("no tokens of %s from %s since %s: %d failures in a row, circuit %s, next try %s",
			who, c.Authority, c.Since.UTC().Format(time.RFC3339), c.Failures, c.State, c.Until.UTC().Format(time.RFC3339)))
	}
	return problems
}

// configuration returns what is applied of the configuration.
func (r reporter) configuration() status.Configuration {
	s := r.agent.watcher.State()
	c := status.Configuration{Origin: string(s.Origin)}
	if s.Refused != nil {
		c.Refused = s.Refused.Error()
	}
	return c
}

// configurationProblems returns what is wrong with the configuration, a line
// each.
func (r reporter) configurationProblems() (all []string) {
	s := r.agent.watcher.State()
	if s.Refused != nil {
		applied := "the last good one stays applied"
		if s.Origin == config.OriginNone {
			applied = "every pod is held"
		}
		all = append(all, fmt.Sprintf("the configuration is refused, %s: %v", applied, s.Refused))
	}
	if s.NotKept != nil {
		all = append(all, fmt.Sprintf("an agent that starts with a bad configuration would hold every pod: %v", s.NotKept))
	}
	if s.Unwatched != nil {
		all = append(all, fmt.Sprintf("a change of the configuration is applied late, once the kubelet has brought the file: %v", s.Unwatched))
	}
	return all
}

// roomInterval is how often it is tried again to make a socket or a link in a
// state directory that is full.
const roomInterval = 2 * time.Second

// noRoom reports an error that says that the disk is full. Pods are served all
// the same: they need nothing on it.
func noRoom(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// announcement answers `agent status`, and says which agent of the node it asks.
type announcement struct {
	stateDir, instance string
	report             func() status.Report
	log                *slog.Logger
	made               bool // `agent status` asks this agent
}

// serve answers `agent status` and the readiness probe.
func (a *announcement) serve(ctx context.Context) error {
	return a.whenThereIsRoom(ctx, "the status socket cannot be made", func() error {
		return status.Serve(ctx, a.stateDir, a.instance, a.report)
	})
}

// make makes this agent the one that `agent status` asks.
func (a *announcement) make() error {
	err := status.Announce(a.stateDir, a.instance)
	a.made = err == nil
	if noRoom(err) {
		err = nil // keep goes on
	}
	return err
}

// keep makes the announcement once there is room for it.
func (a *announcement) keep(ctx context.Context) error {
	if a.made {
		return nil
	}
	return a.whenThereIsRoom(ctx, "`agent status` does not find this agent", func() error {
		err := status.Announce(a.stateDir, a.instance)
		a.made = err == nil
		return err
	})
}

// whenThereIsRoom does what needs room in the state directory until it had
// some, or ctx ends.
func (a *announcement) whenThereIsRoom(ctx context.Context, otherwise string, do func() error) error {
	for logged := false; ; logged = true {
		err := do()
		if !noRoom(err) {
			return err
		}
		if !logged {
			a.log.Error("the state directory is full", "consequence", otherwise, "directory", a.stateDir, "err", err)
		}
		select {
		case <-time.After(roomInterval):
		case <-ctx.Done():
			return nil
		}
	}
}
