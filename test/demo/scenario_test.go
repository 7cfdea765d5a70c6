package main

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"testing"

	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/standins/entra"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
	"github.com/sidestep-agent/sidestep/test/standins/imds"
	"github.com/sidestep-agent/sidestep/test/standins/vault"
)

const brokerRemote = "169.254.169.254:40000"

// goodScenario is a demo in which all was as it should be: what each client got
// and what was logged of it follows from the rules.
func goodScenario(t *testing.T) *scenario {
	t.Helper()
	file, err := federation.Parse(federationYAML)
	if err != nil {
		t.Fatal(err)
	}
	s := &scenario{pods: newPods(file), file: file, sources: map[*workload][]string{}, agentLog: `{"msg":"agent starts"}`}
	for i, w := range s.pods.all() {
		w.Pod = &lab.Pod{UID: fmt.Sprintf("uid-%d", i), Address: net.IPv4(10, 64, 0, byte(4*i+2))}
		if w.identity != "" {
			w.Assertion = "assertion-of-" + w.identity
		}
	}
	for _, step := range steps(s.pods) {
		for _, q := range step.questions {
			s.add(result{question: q, policy: step.policy})
		}
	}
	for _, q := range lastStep(s.pods).questions {
		a := result{question: q, policy: lastStep(s.pods).policy, dead: true}
		s.results = append(s.results, s.answered(a))
	}
	return s
}

// add appends a question that was asked while the agent ran.
func (s *scenario) add(a result) {
	a = s.answered(a)
	s.results = append(s.results, a)
	s.observed.kernel = append(s.observed.kernel, a.logs.kernel...)
	s.observed.audit = append(s.observed.audit, a.logs.audit...)
	s.observed.entra = append(s.observed.entra, a.logs.entra...)
	s.observed.imds = append(s.observed.imds, a.logs.imds...)
	s.observed.vault = append(s.observed.vault, a.logs.vault...)
}

// answered fills in what a good agent and a good kernel make of the question.
func (s *scenario) answered(a result) result {
	p := expected(a)
	for id, name := range namesOf(s.file) {
		if name == p.identity {
			a.answer.objectID = id
		}
	}
	a.answer.peer = "169.254.169.254"
	if !a.dead {
		a.logs.kernel = []connects{{p.verdict, map[family]string{ipv4: "ipv4", mapped: "ipv6"}[a.family], 1}}
	}
	switch p.verdict {
	case "pass":
		a.answer.status = http.StatusOK
		a.logs.imds = []imds.Entry{{Remote: a.by.Pod.Address.String() + ":5", Path: "/metadata/identity/oauth2/token", Identity: true}}
	case "steer":
		s.answeredByBroker(&a)
	default:
		a.answer.refused, a.answer.refusal = true, "Operation not permitted"
	}
	if a.client == azidentity && a.answer.objectID != "" {
		a.logs.vault = vaultEntries(a)
	}
	return a
}

func (s *scenario) answeredByBroker(a *result) {
	switch {
	case a.client == curlInstance:
		a.answer.status, a.answer.body = http.StatusOK, imds.DefaultInstance.Name
		a.logs.imds = []imds.Entry{{Remote: brokerRemote, Path: "/metadata/instance/compute/name"}}
		return
	case a.answer.objectID == "":
		a.answer.status, a.answer.refusal = http.StatusBadRequest, "400 Identity not found"
		a.logs.audit = []auditLine{s.line(eventRequest, a.by, http.StatusBadRequest)}
		return
	}
	a.answer.status, a.answer.token = http.StatusOK, "token-of-"+a.by.identity
	a.logs.audit = []auditLine{s.line(eventRequest, a.by, http.StatusOK)}
	if len(s.results) == 0 || s.results[len(s.results)-1].by != a.by {
		a.logs.audit = append(a.logs.audit, s.line(eventIssued, a.by, 0))
		a.logs.entra = []entra.Entry{{Kind: entra.Keys}, {
			Kind: entra.Token, Verified: true, ClientID: s.clientID(a.by.identity),
			Subject: "system:serviceaccount:" + a.by.Namespace + ":" + a.by.Account,
		}}
	}
}

func (s *scenario) line(event string, w *workload, status int) auditLine {
	l := auditLine{Event: event, Namespace: w.Namespace, Pod: w.Name, ServiceAccount: w.Account, Status: status, ClientID: s.clientID(w.identity)}
	if event == eventRequest {
		l.Endpoint = "token"
	}
	return l
}

func vaultEntries(a result) []vault.Entry {
	challenge := vault.Entry{Operation: vault.Set, Status: http.StatusUnauthorized}
	if a.by.identity != "app-one" {
		return []vault.Entry{challenge, {Operation: vault.Set, ObjectID: a.answer.objectID, Status: http.StatusForbidden}}
	}
	entries := []vault.Entry{challenge}
	for _, o := range []vault.Operation{vault.Set, vault.Get, vault.Delete} {
		entries = append(entries, vault.Entry{Operation: o, ObjectID: a.answer.objectID, Allowed: true, Status: http.StatusOK})
	}
	return entries
}

// question returns the first of the workload by the client.
func (s *scenario) question(by *workload, c client) *result {
	i := slices.IndexFunc(s.results, func(a result) bool { return a.by == by && a.client == c })
	return &s.results[i]
}

// last returns the workload's last question.
func (s *scenario) last(by *workload) *result {
	for i := range slices.Backward(s.results) {
		if s.results[i].by == by {
			return &s.results[i]
		}
	}
	return nil
}
