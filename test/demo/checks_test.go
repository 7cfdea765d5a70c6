package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/sidestep-agent/sidestep/test/standins/entra"
	"github.com/sidestep-agent/sidestep/test/standins/imds"
	"github.com/sidestep-agent/sidestep/test/standins/vault"
)

func failures(s *scenario) []string {
	var failed []string
	for _, c := range s.checks() {
		if c.why != "" {
			failed = append(failed, c.text+": "+c.why)
		}
	}
	return failed
}

func TestGoodScenarioPasses(t *testing.T) {
	if failed := failures(goodScenario(t)); failed != nil {
		t.Errorf("failed:\n%s", strings.Join(failed, "\n"))
	}
}

// TestChecksFind has one thing go wrong in an otherwise good scenario.
func TestChecksFind(t *testing.T) {
	const direct = "10.64.0.2:5"
	tests := []struct {
		name  string
		wrong func(*scenario)
		want  string // part of a failed check's text
	}{
		{"another's identity", func(s *scenario) {
			s.question(s.pods.one, curlToken).answer.objectID = s.question(s.pods.two, curlToken).answer.objectID
		}, "team-a/web (labelled), curl over IPv6-mapped"},
		{"the node's identity for a labelled pod", func(s *scenario) {
			s.question(s.pods.one, azidentity).answer.objectID = s.file.NodeIdentity.PrincipalID
		}, "team-a/web (labelled), azidentity over IPv4"},
		{"a labelled pod that passes", func(s *scenario) { s.question(s.pods.two, azidentity).logs.kernel[0].Verdict = "pass" }, "team-b/report (labelled), azidentity"},
		{"a second connect that takes another way", func(s *scenario) {
			k := &s.question(s.pods.two, azidentity).logs.kernel
			*k = append(*k, connects{"unknown", "ipv4", 1})
		}, "team-b/report (labelled), azidentity"},
		{"IPv4 where a mapped socket was meant", func(s *scenario) { s.question(s.pods.one, curlToken).logs.kernel[0].Family = "ipv4" }, "IPv6-mapped"},
		{"no connect at all", func(s *scenario) { s.question(s.pods.one, azidentity).logs.kernel = nil }, "team-a/web (labelled), azidentity"},
		{"a drop", func(s *scenario) { s.question(s.pods.one, azidentity).answer.objectID = "" }, "team-a/web (labelled), azidentity"},
		{"the exempt pod is cut off with the agent", func(s *scenario) { s.last(s.pods.exempt).logs.imds = nil }, "without the agent, kube-system/csi"},
		{"a labelled pod passes when the agent is dead", func(s *scenario) {
			a := s.last(s.pods.one)
			a.answer.refused, a.answer.objectID = false, s.file.NodeIdentity.PrincipalID
			a.logs.imds = []imds.Entry{{Remote: direct, Identity: true}}
		}, "without the agent, team-a/web"},
		{"answered and not refused", func(s *scenario) { s.last(s.pods.one).answer.refused = false }, "are refused at connect()"},
		{"another source of tokens", func(s *scenario) { s.sources[s.pods.two] = []string{"the variable AZURE_CLIENT_ID"} }, "no other source"},
		{"getpeername tells", func(s *scenario) { s.question(s.pods.one, curlToken).answer.peer = "127.0.0.1" }, "believes"},
		{"the vault lets app-two in", func(s *scenario) {
			s.observed.vault = append(s.observed.vault, vault.Entry{Operation: vault.Get, Allowed: true, ObjectID: s.question(s.pods.two, azidentity).answer.objectID})
		}, "the vault let app-one"},
		{"the vault was never asked", func(s *scenario) { s.observed.vault = nil }, "the vault let app-one"},
		{"no audit line", func(s *scenario) { s.question(s.pods.one, azidentity).logs.audit = nil }, "broker's debug log"},
		{"an audit line too many", func(s *scenario) {
			s.observed.audit = append(s.observed.audit, s.line(eventRequest, s.pods.two, http.StatusOK))
		}, "broker's debug log"},
		{"an audit line of the wrong client", func(s *scenario) { s.observed.audit[0].ClientID = s.clientID("app-two") }, "broker's debug log"},
		{"issued twice", func(s *scenario) { s.observed.audit = append(s.observed.audit, s.line(eventIssued, s.pods.one, 0)) }, "first token"},
		{"exchanged twice", func(s *scenario) { s.observed.entra = append(s.observed.entra, s.observed.entra...) }, "Entra verified"},
		{"the wrong subject", func(s *scenario) { s.observed.entra[1].Subject = "system:serviceaccount:team-b:report" }, "Entra verified"},
		{"an assertion that Entra refused", func(s *scenario) {
			s.observed.entra = append(s.observed.entra, entra.Entry{Kind: entra.Token, Error: "AADSTS700213"})
		}, "Entra verified"},
		{"a labelled pod at the node's IMDS", func(s *scenario) {
			s.question(s.pods.one, curlToken).logs.imds = []imds.Entry{{Remote: direct, Identity: true}}
		}, "the node's identity"},
		{"an identity request that was relayed", func(s *scenario) {
			s.question(s.pods.unlabelled, curlInstance).logs.imds = []imds.Entry{{Remote: brokerRemote, Identity: true}}
		}, "never by the broker"},
		{"metadata not relayed", func(s *scenario) { s.question(s.pods.unlabelled, curlInstance).answer.body = "" }, "under metadata-only"},
		{"metadata fetched past the broker", func(s *scenario) {
			a := s.question(s.pods.unlabelled, curlInstance)
			a.logs.imds[0].Remote = a.by.Pod.Address.String() + ":5"
		}, "under metadata-only"},
		{"a denied pod's request arrives", func(s *scenario) {
			s.last(s.pods.unlabelled).logs.imds = []imds.Entry{{Remote: direct}}
		}, "are refused at connect()"},
		{"a pod was held", func(s *scenario) { s.observed.kernel = append(s.observed.kernel, connects{"unknown", "ipv4", 1}) }, "knew the pod"},
		{"a token in the log", func(s *scenario) { s.agentLog += s.question(s.pods.one, curlToken).answer.token }, "no token and no service account token"},
		{"an assertion in the log", func(s *scenario) { s.agentLog += s.pods.two.Assertion }, "no token and no service account token"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := goodScenario(t)
			tt.wrong(s)
			failed := strings.Join(failures(s), "\n")
			if !strings.Contains(failed, tt.want) {
				t.Errorf("no failed check has %q in it; failed:\n%s", tt.want, failed)
			}
		})
	}
}
