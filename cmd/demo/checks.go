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

// checks compares the story with what the documentation promises.
func (s *story) checks() []check {
	all := []check{s.checkRoads()}
	for _, a := range s.asked {
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

// checkRoads: what a client gets can only have come over the metadata service.
func (s *story) checkRoads() check {
	c := check{text: "the clients know of no other source: their environment is PATH, HOME and SSL_CERT_FILE, their home is empty"}
	for _, w := range s.pods.all() {
		if roads := s.roads[w]; len(roads) > 0 {
			c.why = fmt.Sprintf("%s has %s", w, strings.Join(roads, ", "))
		}
	}
	return c
}

// promise is what the rules promise to a question.
type promise struct {
	verdict  string // of the kernel, as its counters name it
	identity string
}

func promised(a asked) promise {
	switch {
	case a.by.exempt():
		return promise{"pass", nodes}
	case a.dead:
		return promise{"refused", nobody}
	case a.by.labelled() && a.client == curlInstance:
		return promise{"steer", nobody}
	case a.by.labelled():
		return promise{"steer", a.by.identity}
	}
	return map[config.Unlabeled]promise{
		config.UnlabeledPass:         {"pass", nodes},
		config.UnlabeledMetadataOnly: {"steer", nobody},
		config.UnlabeledDeny:         {"deny", nobody},
	}[a.policy]
}

// checkAnswer: the kernel did with the client's connects what the rules say,
// and the client got the identity that they say.
func (s *story) checkAnswer(a asked) check {
	p := promised(a)
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
func (a asked) went(verdict string) bool {
	if a.dead {
		return a.route() == routes[verdict]
	}
	want := map[family]string{ipv4: "ipv4", mapped: "ipv6"}[a.family]
	other := func(c connects) bool { return c.Verdict != verdict || c.Family != want }
	return len(a.logs.kernel) > 0 && !slices.ContainsFunc(a.logs.kernel, other)
}

// checkPeer: getpeername says to a steered client what it dialled.
func (s *story) checkPeer() check {
	c := check{text: "steered or not, curl believes that it spoke to 169.254.169.254"}
	for _, a := range s.asked {
		if a.client != azidentity && a.answer.status != 0 && a.answer.peer != "169.254.169.254" {
			c.why = fmt.Sprintf("in %s it spoke to %s", a.by, a.answer.peer)
		}
	}
	return c
}

// successes returns the questions of labelled pods that brought a token.
func (s *story) successes() []asked {
	return slices.DeleteFunc(slices.Clone(s.asked), func(a asked) bool {
		return !a.by.labelled() || a.answer.objectID == ""
	})
}

// clientID returns the client id of an app's identity.
func (s *story) clientID(name string) string { return clientID(s.file, name) }

// labelled returns the labelled pods.
func (s *story) labelled() []*workload {
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
