package main

import (
	"slices"
)

// state is what is known of one link.
type state string

const (
	ok      state = "ok"
	broken  state = "BROKEN"
	unknown state = "unknown" // nobody could say, or nobody has tried yet
)

// link is one step from a pod's label to its token.
type link struct {
	Name   string `json:"name"`
	State  state  `json:"state"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // a command, or what to do
}

// chain returns the links in the order in which a request passes them. A link
// behind a broken one is judged all the same, as far as it can be.
func chain(f *facts) []link {
	var links []link
	for _, step := range []struct {
		name  string
		judge func(*facts) link
	}{
		{"agent", judgeAgent},
		{"label", judgeLabel},
		{"rules", judgeRules},
		{"listener", judgeListener},
		{"assertion", judgeAssertion},
		{"client id", judgeClientID},
		{"tenant", judgeTenant},
		{"exchange", judgeExchange},
	} {
		l := step.judge(f)
		l.Name = step.name
		links = append(links, l)
	}
	return links
}

// isWhole reports whether no link is broken.
func isWhole(links []link) bool {
	return !slices.ContainsFunc(links, func(l link) bool { return l.State == broken })
}
