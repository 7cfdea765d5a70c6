package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/test/standins/entra"
	"github.com/sidestep-agent/sidestep/test/standins/imds"
	"github.com/sidestep-agent/sidestep/test/standins/vault"
)

// checkVault: the identity that a pod has got is the one that counts.
func (s *scenario) checkVault() check {
	c := check{text: "the vault let app-one set, get and delete its secret, and no other identity do anything"}
	n := namesOf(s.file)
	var allowed, denied []string
	for _, e := range s.observed.vault {
		switch {
		case e.Allowed:
			allowed = append(allowed, n.of(e.ObjectID)+" "+string(e.Operation))
		case e.Status == http.StatusForbidden:
			denied = append(denied, n.of(e.ObjectID))
		}
	}
	slices.Sort(denied)
	c.why = differ("it allowed", allowed, []string{
		"app-one " + string(vault.Set), "app-one " + string(vault.Get), "app-one " + string(vault.Delete)})
	if c.why == "" {
		c.why = differ("it refused", slices.Compact(denied), []string{"app-two", nodes})
	}
	return c
}

// checkAudit: what a client has got is in the audit log, and nothing else is.
func (s *scenario) checkAudit() check {
	successes := s.successes()
	c := check{text: fmt.Sprintf("each of the %d tokens that labelled pods got is one line in the broker's debug log", len(successes))}
	var got, want []string
	for _, a := range successes {
		want = append(want, s.auditText(a.by))
		if n := len(granted(a.logs.requests())); n != 1 && c.why == "" {
			c.why = fmt.Sprintf("%s by %s has %d lines", a.by, a.client, n)
		}
	}
	for _, l := range granted(s.observed.requests()) {
		got = append(got, l.text())
	}
	if c.why == "" {
		c.why = differ("the log has", got, want)
	}
	return c
}

func granted(lines []auditLine) []auditLine {
	return slices.DeleteFunc(lines, func(l auditLine) bool { return l.Endpoint != "token" || l.Status != http.StatusOK })
}

func (l auditLine) text() string {
	return fmt.Sprintf("%s/%s of %s as %s", l.Namespace, l.Pod, l.ServiceAccount, l.ClientID)
}

// auditText is what an audit line of a pod with its own identity says.
func (s *scenario) auditText(w *workload) string {
	return auditLine{Namespace: w.Namespace, Pod: w.Name, ServiceAccount: w.Account, ClientID: s.clientID(w.identity)}.text()
}

// checkIssued: a token's first issue to a pod is logged once.
func (s *scenario) checkIssued() check {
	c := check{text: "the agent logged the first token of each labelled pod, once"}
	var got, want []string
	for _, l := range s.observed.issued() {
		got = append(got, l.text())
	}
	for _, w := range s.labelled() {
		want = append(want, s.auditText(w))
	}
	c.why = differ("it logged", got, want)
	return c
}

// checkExchanges: Entra saw each pod's own proof, for its own identity, and
// saw it once, since the second client was served from the cache.
func (s *scenario) checkExchanges() check {
	c := check{text: "Entra verified one exchange of each labelled pod's own service account for its own identity, and was asked for nothing else"}
	var got, want []string
	for _, e := range s.observed.entra {
		if e.Kind == entra.Token {
			got = append(got, fmt.Sprintf("%s as %s, verified %t %s", e.Subject, e.ClientID, e.Verified, e.Error))
		}
	}
	for _, w := range s.labelled() {
		want = append(want, fmt.Sprintf("system:serviceaccount:%s:%s as %s, verified true ", w.Namespace, w.Account, s.clientID(w.identity)))
	}
	c.why = differ("it saw", got, want)
	return c
}

// checkNodeIdentity: only those that pass ever ask the node's metadata service
// for an identity, and the broker never does.
func (s *scenario) checkNodeIdentity() check {
	c := check{text: "the node's identity was asked for by pods that pass, themselves; by no steered pod and never by the broker"}
	for _, a := range s.results {
		if expected(a).verdict == "pass" && len(a.own()) == len(a.logs.imds) {
			continue
		}
		for _, e := range a.logs.imds {
			if e.Identity {
				c.why = fmt.Sprintf("IMDS was asked for %s from %s while %s asked", e.Path, e.Remote, a.by)
			}
		}
	}
	return c
}

// checkMetadata: metadata-only means what it says.
func (s *scenario) checkMetadata() check {
	c := check{text: "under metadata-only the unlabelled pod learned its VM's name through the broker, and got 400 \"Identity not found\" for a token"}
	for _, a := range s.results {
		if a.policy != config.UnlabeledMetadataOnly {
			continue
		}
		name := imds.DefaultInstance.Name
		switch {
		case a.client == curlInstance && (a.answer.body != name || len(a.logs.imds) != 1 || len(a.own()) != 0):
			c.why = fmt.Sprintf("it read %q, and IMDS saw %d requests, %d of them its own", a.answer.body, len(a.logs.imds), len(a.own()))
		case a.client == curlToken && a.answer.status != http.StatusBadRequest,
			a.client != curlInstance && !strings.HasSuffix(a.answer.refusal, "Identity not found"):
			c.why = fmt.Sprintf("%s was answered %s", a.client, a.answer.refusal)
		case a.client != curlInstance && len(a.logs.imds) > 0:
			c.why = "IMDS was asked by " + a.logs.imds[0].Remote
		}
	}
	return c
}

// checkRefusedPods: a refusal is the kernel's, before anything is sent.
func (s *scenario) checkRefusedPods() check {
	c := check{text: "denied pods, and labelled ones without the agent, are refused at connect(): nothing of theirs arrived anywhere"}
	for _, a := range s.results {
		if v := expected(a).verdict; v != "deny" && v != "refused" {
			continue
		}
		switch {
		case !a.answer.refused:
			c.why = fmt.Sprintf("%s by %s: %s", a.by, a.client, a.answer.refusal)
		case len(a.logs.imds)+len(a.logs.entra)+len(a.logs.requests()) > 0:
			c.why = fmt.Sprintf("%s by %s left a trace in the logs", a.by, a.client)
		}
	}
	return c
}

// checkCounters: while the agent lives, no pod of these is held or guessed at.
func (s *scenario) checkCounters() check {
	c := check{text: "while the agent ran, the kernel knew the pod of each connect"}
	for _, k := range s.observed.kernel {
		if k.Count > 0 && (k.Verdict == "unknown" || k.Verdict == "refused") {
			c.why = fmt.Sprintf("%d connects over %s were %s", k.Count, k.Family, k.Verdict)
		}
	}
	return c
}

// checkSecrets: what is secret stays out of logs.
func (s *scenario) checkSecrets() check {
	c := check{text: "no token and no service account token is in the agent's log"}
	for _, w := range s.pods.all() {
		if w.Assertion != "" && strings.Contains(s.agentLog, w.Assertion) {
			c.why = "that of " + w.String() + " is"
		}
	}
	for _, a := range s.results {
		if a.answer.token != "" && strings.Contains(s.agentLog, a.answer.token) {
			c.why = "one that " + a.by.String() + " got is"
		}
	}
	return c
}
