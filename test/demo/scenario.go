package main

import (
	"context"
	"fmt"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
)

const introduction = `
Sidestep, shown on a node without a cluster.

On Azure any pod that asks 169.254.169.254 for a token gets the identity of its node. Below,
four pods ask, each with a real Azure SDK client and with curl. The kernel sends the labelled
pods' calls to a broker in the agent, which proves who calls and gets that pod's own identity
from Entra. The clients know nothing of it.

Real here: the kernel's part, the agent's program, cgroups and namespaces, azidentity, azsecrets,
curl. Stand-ins: Entra, Key Vault and the metadata service (IMDS), which are only in Azure, and
the Kubernetes API. All of it runs in namespaces of its own and is gone when the demo ends.`

// scenario is everything that happened, for the checks.
type scenario struct {
	pods     podSet
	file     federation.File
	sources  map[*workload][]string // what could lead clients past the metadata service
	results  []result
	observed logs   // everything up to the agent's end
	agentLog string // to its end
}

// runner runs the scenario.
type runner struct {
	scenario
	setup *setup
	out   *page
}

// runAll asks all of the questions, prints the table and the checks, and
// returns how many checks failed.
func runAll(ctx context.Context, s *setup, out *page) (int, error) {
	t := &runner{setup: s, out: out}
	t.pods, t.file, t.sources = s.pods, s.Cloud.Federation, map[*workload][]string{}
	for _, w := range s.pods.all() {
		sources, err := s.otherSources(ctx, w)
		if err != nil {
			return 0, err
		}
		t.sources[w] = sources
	}
	out.paragraph(fmt.Sprintf("The agent was ready after %d ms.", s.Agent.ReadyAfter.Milliseconds()))
	out.header()
	if err := t.alive(ctx); err != nil {
		return 0, err
	}
	if err := t.dead(ctx); err != nil {
		return 0, err
	}
	out.heading("Checked against the kernel's counters and everyone's logs:")
	return out.checks(t.checks(), s.Agent.LastWords()), nil
}

// alive asks while the agent runs, under each of the policies for unlabelled
// pods.
func (t *runner) alive(ctx context.Context) (err error) {
	for _, step := range steps(t.pods) {
		if err := t.setup.Agent.Configure(step.policy); err != nil {
			return err
		}
		if err := t.setup.Agent.WaitApplied(ctx, t.pods.unlabelled.Pod.UID, step.policy); err != nil {
			return err
		}
		if err := t.ask(ctx, step); err != nil {
			return err
		}
	}
	t.observed, err = t.setup.logs(ctx)
	return err
}

// dead kills the agent and asks again.
func (t *runner) dead(ctx context.Context) error {
	if err := t.setup.Agent.Kill(); err != nil {
		return fmt.Errorf("kill the agent: %w", err)
	}
	t.agentLog = string(t.setup.Agent.Log.Whole())
	t.out.heading("The agent is killed (SIGKILL). Its programs stay in the kernel:")
	return t.ask(ctx, lastStep(t.pods))
}

func (t *runner) ask(ctx context.Context, step step) error {
	for _, q := range step.questions {
		a, err := t.setup.ask(ctx, q, step.policy)
		if err != nil {
			return fmt.Errorf("%s, %s: %w", q.by, q.client, err)
		}
		t.results = append(t.results, a)
		t.out.row(a.row(t.setup.names))
	}
	return nil
}

// step is some questions under one policy for unlabelled pods.
type step struct {
	policy    config.Unlabeled
	questions []question
}

// steps returns what is asked while the agent runs.
func steps(p podSet) []step {
	return []step{
		{config.UnlabeledPass, []question{
			{p.one, azidentity, ipv4},
			{p.one, curlToken, mapped},
			{p.two, azidentity, ipv4},
			{p.two, curlToken, ipv4},
			{p.exempt, azidentity, ipv4},
			{p.exempt, curlToken, mapped},
			{p.unlabelled, azidentity, ipv4},
			{p.unlabelled, curlToken, ipv4},
		}},
		{config.UnlabeledMetadataOnly, []question{
			{p.unlabelled, azidentity, ipv4},
			{p.unlabelled, curlToken, mapped},
			{p.unlabelled, curlInstance, ipv4},
		}},
		{config.UnlabeledDeny, []question{
			{p.unlabelled, azidentity, ipv4},
			{p.unlabelled, curlToken, mapped},
		}},
	}
}

// lastStep returns what is asked when the agent is dead.
func lastStep(p podSet) step {
	return step{config.UnlabeledDeny, []question{
		{p.one, azidentity, ipv4},
		{p.one, curlToken, ipv4},
		{p.two, curlToken, mapped},
		{p.exempt, curlToken, ipv4},
	}}
}
