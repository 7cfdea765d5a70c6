package main

import (
	"context"
	"net"
	"slices"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/entra"
	"github.com/sidestep-agent/sidestep/test/standins/imds"
	"github.com/sidestep-agent/sidestep/test/standins/vault"
)

// logs is what all other parts saw: the kernel's counters, the agent's audit
// log and the stand-ins' logs.
type logs struct {
	kernel []connects // nil: the agent that reports them is dead
	audit  []auditLine
	entra  []entra.Entry
	imds   []imds.Entry
	vault  []vault.Entry
}

// logs reads everything as it stands.
func (s *setup) logs(ctx context.Context) (l logs, err error) {
	if s.Agent.Alive() {
		if l.kernel, err = kernelCounters(ctx); err != nil {
			return logs{}, err
		}
	}
	l.audit = auditLines(s.Agent.Log.Whole())
	if l.entra, err = scene.Entries[entra.Entry](&s.Cloud.Logs.Entra); err != nil {
		return logs{}, err
	}
	if l.imds, err = scene.Entries[imds.Entry](&s.Cloud.Logs.IMDS); err != nil {
		return logs{}, err
	}
	l.vault, err = scene.Entries[vault.Entry](&s.Cloud.Logs.Vault)
	return l, err
}

// since returns what was added to the logs after before.
func (l logs) since(before logs) logs {
	return logs{
		kernel: moved(before.kernel, l.kernel),
		audit:  l.audit[len(before.audit):],
		entra:  l.entra[len(before.entra):],
		imds:   l.imds[len(before.imds):],
		vault:  l.vault[len(before.vault):],
	}
}

// question is one client that asks in one pod.
type question struct {
	by     *workload
	client client
	family family
}

// client is a program and what it asks for.
type client string

const (
	azidentity   client = "azidentity" // a token, then the vault with azsecrets
	curlToken    client = "curl"
	curlInstance client = "curl, metadata"
)

// result is a question with its answer, and what everyone else saw of it.
type result struct {
	question
	policy config.Unlabeled // about unlabelled pods, at that time
	dead   bool             // the agent was
	answer answer
	took   time.Duration
	logs   logs // what was added while it was asked
}

// ask has a client ask and gathers what the others saw of it.
func (s *setup) ask(ctx context.Context, q question, policy config.Unlabeled) (result, error) {
	a := result{question: q, policy: policy, dead: !s.Agent.Alive()}
	before, err := s.logs(ctx)
	if err != nil {
		return result{}, err
	}
	start := time.Now()
	switch q.client {
	case azidentity:
		a.answer, err = s.azidentity(ctx, q.by)
	case curlToken:
		a.answer, err = s.curl(ctx, q.by, q.family)
	case curlInstance:
		a.answer, err = s.curlPath(ctx, q.by, q.family, instancePath)
	}
	if err != nil {
		return result{}, err
	}
	a.took = time.Since(start)
	a.logs, err = s.settled(ctx, before, a)
	return a, err
}

// settled returns what was added to the logs. The broker writes its audit line
// after the answer, so that it may come a moment later than the client ends.
func (s *setup) settled(ctx context.Context, before logs, a result) (logs, error) {
	const aMoment = time.Second
	deadline := time.Now().Add(aMoment)
	for {
		now, err := s.logs(ctx)
		if err != nil {
			return logs{}, err
		}
		added := now.since(before)
		if a.client == curlInstance || !added.steered() || len(added.requests()) > 0 || time.Now().After(deadline) {
			return added, nil
		}
		time.Sleep(time.Millisecond)
	}
}

func (l logs) steered() bool {
	return slices.ContainsFunc(l.kernel, func(c connects) bool { return c.Verdict == "steer" })
}

// requests returns the broker's lines on the token path.
func (l logs) requests() []auditLine { return linesOf(l.audit, eventRequest) }

// issued returns the lines on tokens that a workload got for the first time.
func (l logs) issued() []auditLine { return linesOf(l.audit, eventIssued) }

func linesOf(lines []auditLine, event string) []auditLine {
	return slices.DeleteFunc(slices.Clone(lines), func(l auditLine) bool { return l.Event != event })
}

// own returns the requests that reached the metadata service from the pod's
// own address: those that no broker made in between.
func (a result) own() []imds.Entry {
	var own []imds.Entry
	for _, e := range a.logs.imds {
		if host, _, err := net.SplitHostPort(e.Remote); err == nil && a.by.Pod.Address.Equal(net.ParseIP(host)) {
			own = append(own, e)
		}
	}
	return own
}
