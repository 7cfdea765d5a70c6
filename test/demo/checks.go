package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/sidestep-agent/sidestep/pkg/config"
)

// check is one point in which all was as it should be, or was not.
type check struct {
	text string
	why  string // what is wrong; empty: nothing
}

// checks compares the scenario with what the documentation promises.
func (s *scenario) checks() []check {
	all := []check{s.checkSources()}
	for _, a := range s.results {
		all = append(all, s.checkAnswer(a))
	}
	return append(all,
		s.checkPeer(),
		s.checkVault(),
		s.checkAudit(),
		s.checkIssued(),
		s.checkExchanges(),
		s.checkNodeIdentity(),
		s.checkMetadata(),
		s.checkRefusedPods(),
		s.checkCounters(),
		s.checkSecrets(),
	)
}

// checkSources: what a client gets can only have come over the metadata service.
func (s *scenario) checkSources() check {
	c := check{text: "the clients know of no other source: their environment is PATH, HOME and SSL_CERT_FILE, their home is empty"}
	for _, w := range s.pods.all() {
		if sources := s.sources[w]; len(sources) > 0 {
			c.why = fmt.Sprintf("%s has %s", w, strings.Join(sources, ", "))
		}
	}
	return c
}

// expectation is what the rules expectation to a question.
type expectation struct {
	verdict  string // of the kernel, as its counters name it
	identity string
}

func expected(a result) expectation {
	switch {
	case a.by.exempt():
		return expectation{"pass", nodes}
	case a.dead:
		return expectation{"refused", noIdentity}
	case a.by.labelled() && a.client == curlInstance:
		return expectation{"steer", noIdentity}
	case a.by.labelled():
		return expectation{"steer", a.by.identity}
	}
	return map[config.Unlabeled]expectation{
		config.UnlabeledPass:         {"pass", nodes},
		config.UnlabeledMetadataOnly: {"steer", noIdentity},
		config.UnlabeledDeny:         {"deny", noIdentity},
	}[a.policy]
}

// checkAnswer: the kernel did with the client's connects what the rules say,
// and the client got the identity that they say.
func (s *scenario) checkAnswer(a result) check {
	p := expected(a)
	c := check{text: fmt.Sprintf("%s (%s), %s over %s: %s, identity %s",
		a.by, a.which(), a.client, a.family, routes[p.verdict].text, p.identity)}
	if a.dead {
		c.text = "without the agent, " + c.text
	}
	got := namesOf(s.file).of(a.answer.objectID)
	switch {
	case !a.went(p.verdict):
		c.why = fmt.Sprintf("the kernel sent it to %s over %s", a.route().text, a.socket())
	case got != p.identity:
		c.why = strings.TrimSpace("it got " + got + " " + a.answer.refusal)
	}
	return c
}

// went reports whether all of the question's connects, and at least one, were
// made over its family and ended as the verdict says.
func (a result) went(verdict string) bool {
	if a.dead {
		return a.route() == routes[verdict]
	}
	want := map[family]string{ipv4: "ipv4", mapped: "ipv6"}[a.family]
	other := func(c connects) bool { return c.Verdict != verdict || c.Family != want }
	return len(a.logs.kernel) > 0 && !slices.ContainsFunc(a.logs.kernel, other)
}

// checkPeer: getpeername says to a steered client what it dialled.
func (s *scenario) checkPeer() check {
	c := check{text: "steered or not, curl believes that it spoke to 169.254.169.254"}
	for _, a := range s.results {
		if a.client != azidentity && a.answer.status != 0 && a.answer.peer != "169.254.169.254" {
			c.why = fmt.Sprintf("in %s it spoke to %s", a.by, a.answer.peer)
		}
	}
	return c
}

// successes returns the questions of labelled pods that brought a token.
func (s *scenario) successes() []result {
	return slices.DeleteFunc(slices.Clone(s.results), func(a result) bool {
		return !a.by.labelled() || a.answer.objectID == ""
	})
}

// clientID returns the client id of an app's identity.
func (s *scenario) clientID(name string) string { return clientID(s.file, name) }

// labelled returns the labelled pods.
func (s *scenario) labelled() []*workload {
	return slices.DeleteFunc(s.pods.all(), func(w *workload) bool { return !w.labelled() })
}

// differ says how two lists differ; nothing if they are equal whatever their
// order.
func differ(what string, got, want []string) string {
	slices.SortFunc(got, cmp.Compare)
	slices.SortFunc(want, cmp.Compare)
	if slices.Equal(got, want) {
		return ""
	}
	return fmt.Sprintf("%s %q, not %q", what, got, want)
}
