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

// story is all that happened, for the checks.
type story struct {
	pods     cast
	file     federation.File
	roads    map[*workload][]string // what could lead clients past the metadata service
	asked    []asked
	lived    logs   // everything up to the agent's end
	agentLog string // to its end
}

// theatre is a story while it happens.
type theatre struct {
	story
	stage *stage
	out   *page
}

// play has all of the questions asked, prints the table and the checks, and
// returns how many checks failed.
func play(ctx context.Context, s *stage, out *page) (int, error) {
	t := &theatre{stage: s, out: out}
	t.pods, t.file, t.roads = s.pods, s.Cloud.Federation, map[*workload][]string{}
	for _, w := range s.pods.all() {
		roads, err := s.otherRoads(ctx, w)
		if err != nil {
			return 0, err
		}
		t.roads[w] = roads
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
func (t *theatre) alive(ctx context.Context) (err error) {
	for _, act := range acts(t.pods) {
		if err := t.stage.Agent.Configure(act.policy); err != nil {
			return err
		}
		if err := t.stage.Agent.WaitApplied(ctx, t.pods.unlabelled.Pod.UID, act.policy); err != nil {
			return err
		}
		if err := t.ask(ctx, act); err != nil {
			return err
		}
	}
	t.lived, err = t.stage.logs(ctx)
	return err
}

// dead kills the agent and asks again.
func (t *theatre) dead(ctx context.Context) error {
	if err := t.stage.Agent.Kill(); err != nil {
		return fmt.Errorf("kill the agent: %w", err)
	}
	t.agentLog = string(t.stage.Agent.Log.Whole())
	t.out.heading("The agent is killed (SIGKILL). Its programs stay in the kernel:")
	return t.ask(ctx, epilogue(t.pods))
}

func (t *theatre) ask(ctx context.Context, act act) error {
	for _, q := range act.questions {
		a, err := t.stage.ask(ctx, q, act.policy)
		if err != nil {
			return fmt.Errorf("%s, %s: %w", q.by, q.client, err)
		}
		t.asked = append(t.asked, a)
		t.out.row(a.row(t.stage.names))
	}
	return nil
}

// act is some questions under one policy for unlabelled pods.
type act struct {
	policy    config.Unlabeled
	questions []question
}

// acts returns what is asked while the agent runs.
func acts(p cast) []act {
	return []act{
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

// epilogue returns what is asked when the agent is dead.
func epilogue(p cast) act {
	return act{config.UnlabeledDeny, []question{
		{p.one, azidentity, ipv4},
		{p.one, curlToken, ipv4},
		{p.two, curlToken, mapped},
		{p.exempt, curlToken, ipv4},
	}}
}
