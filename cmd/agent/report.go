package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/status"
	"github.com/sidestep-agent/sidestep/pkg/tokens"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// report gathers what `agent status` shows.
func (a *agent) report() status.Report {
	r := status.Report{
		Version: version, Node: a.options.nodeName, Since: a.since,
		Mode: string(a.settings.active().Mode), Delivery: a.options.delivery, TokenRequest: a.options.tokenRequest,
		Ready: true, Counters: make(map[string]uint64),
	}
	if err := a.ready(); err != nil {
		r.Ready = false
		r.Problems = append(r.Problems, "not ready: "+err.Error())
	}
	r.StaleSince, _ = a.pods.Stale()
	guard, _ := a.options.effectiveGuard()
	r.Guard = guard
	r.Configuration = a.configuration()
	r.Problems = append(r.Problems, a.configurationProblems()...)
	r.Problems = append(r.Problems, variableProblems(a.options.unknown)...)
	r.Problems = append(r.Problems, a.witnessProblems()...)
	r.Problems = append(r.Problems, a.guardProblems()...)
	r.Problems = append(r.Problems, a.exposedProblems()...)
	r.SecondLine, _ = a.lineState()
	r.Problems = append(r.Problems, a.lineProblems()...)
	boot, problems := a.bootGuard()
	r.BootGuard = boot
	r.Problems = append(r.Problems, problems...)
	r.Problems = append(r.Problems, circuitProblems(a.tokens.Circuits())...)
	connects, err := a.hooks.Connects()
	if err != nil {
		r.Problems = append(r.Problems, err.Error())
	}
	for _, c := range connects {
		r.Counters[c.Verdict] += c.Count
	}
	a.addPods(&r)
	a.addServiceAccounts(&r)
	return r
}

func (a *agent) addPods(r *status.Report) {
	listeners := a.delivery.Listeners()
	cgroupIDs := make(map[string]uint64)
	for _, cg := range a.tree.Snapshot() {
		cgroupIDs[cg.UID] = cg.CgroupID
	}
	for _, p := range a.pods.Pods() {
		w, _, _ := a.pods.Lookup(workload.CgroupRef{PodUID: p.UID})
		pod := status.Pod{
			Namespace: p.Namespace, Name: p.Name, UID: p.UID, ServiceAccount: p.ServiceAccount,
			ClientID: w.ClientID, Verdict: p.Decision.Verdict.String(), Reason: p.Decision.Reason,
			Listener: listeners[p.UID], CgroupID: cgroupIDs[p.UID], Containers: containersOf(p), Token: a.lastAnswer(p.UID),
		}
		if p.Steered() {
			pod.Access = p.Decision.Access.String()
		}
		if problem := a.notApplied(p, pod.CgroupID); problem != "" {
			r.Problems = append(r.Problems, problem)
		}
		r.Pods = append(r.Pods, pod)
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
func (a *agent) notApplied(p workload.Pod, cgroupID uint64) string {
	if cgroupID == 0 || p.Decision.Verdict == workload.Unknown { // its containers have verdicts of their own
		return ""
	}
	entry, ok, err := a.hooks.Verdict(cgroupID)
	switch {
	case err != nil:
		return err.Error()
	case !ok || entry.Verdict != p.Decision.Verdict:
		return fmt.Sprintf("pod %s/%s: %s is not applied yet, the pod is held", p.Namespace, p.Name, p.Decision.Verdict)
	}
	return ""
}

func (a *agent) addServiceAccounts(r *status.Report) {
	exchanges := make(map[[2]string]tokens.Exchange)
	for _, e := range a.tokens.Exchanges() {
		exchanges[[2]string{e.Namespace, e.ServiceAccount}] = e
	}
	seen := make(map[[2]string]bool)
	for _, p := range a.pods.Pods() {
		key := [2]string{p.Namespace, p.ServiceAccount}
		if seen[key] {
			continue
		}
		seen[key] = true
		w, _, _ := a.pods.Lookup(workload.CgroupRef{PodUID: p.UID})
		e := exchanges[key]
		account := status.ServiceAccount{
			Namespace: p.Namespace, Name: p.ServiceAccount, ClientID: w.ClientID,
			TenantID:     cmp.Or(w.TenantID, a.options.tenantID),
			LastExchange: e.At, ExpiresOn: e.ExpiresOn, LastError: lastError(e.Outcome), Fix: e.Fix,
		}
		r.ServiceAccounts = append(r.ServiceAccounts, account)
	}
}

// lastAnswer returns how the pod's last request was answered; nil: it made none.
func (a *agent) lastAnswer(podUID string) *status.Answer {
	last, ok := a.tokens.LastAnswer(podUID)
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
