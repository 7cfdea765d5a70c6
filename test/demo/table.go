package main

import (
	"fmt"
	"strconv"
	"strings"
)

// row returns what the table shows of a question.
func (a result) row(n names) []cell {
	return []cell{
		{text: a.by.String()}, {text: a.which()}, {text: string(a.client)}, {text: a.socket()},
		a.route(), a.identity(n), {text: strconv.FormatInt(a.took.Milliseconds(), 10)}, a.outcome(),
	}
}

// which says how the rules see the pod.
func (a result) which() string {
	switch {
	case a.by.labelled():
		return "labelled"
	case a.by.exempt():
		return "exempt"
	}
	return "unlabelled: " + string(a.policy)
}

// socket returns the families that the kernel counted; without an agent that
// reports its counters, the one that the client was asked to use.
func (a result) socket() string {
	seen := map[string]bool{}
	var families []string
	for _, c := range a.logs.kernel {
		name := map[string]family{"ipv4": ipv4, "ipv6": mapped}[c.Family]
		if !seen[c.Family] {
			families = append(families, string(name))
		}
		seen[c.Family] = true
	}
	if len(families) == 0 {
		return string(a.family)
	}
	return strings.Join(families, ", ")
}

// routes says for each of the kernel's verdicts where a connect went.
var routes = map[string]cell{
	"steer":   {"its broker", green},
	"pass":    {"the node's IMDS", plain},
	"deny":    {"nowhere (denied)", red},
	"unknown": {"the node's listener", red},
	"refused": {"nowhere (refused)", red},
}

// route returns where the kernel sent the connects, by its own counters;
// without an agent that reports them, by who was reached.
func (a result) route() cell {
	if len(a.logs.kernel) > 0 {
		return a.counted()
	}
	switch {
	case len(a.own()) > 0:
		return routes["pass"]
	case a.answer.refused:
		return routes["refused"]
	}
	return cell{"unknown", red}
}

// counted returns where the kernel's counters say that the connects went. A
// verdict that did not come true is shown as well: audit mode counts what it
// would have done.
func (a result) counted() cell {
	var all []string
	passed := false
	for _, c := range a.logs.kernel {
		text := routes[c.Verdict].text
		if c.Count > 1 {
			text += fmt.Sprintf(" ×%d", c.Count)
		}
		all = append(all, text)
		passed = passed || c.Verdict == "pass"
	}
	if len(a.own()) > 0 && !passed {
		return cell{strings.Join(all, ", ") + " (actually " + routes["pass"].text + ")", red}
	}
	return cell{strings.Join(all, ", "), routes[a.logs.kernel[0].Verdict].paint}
}

func (a result) identity(n names) cell {
	name := n.of(a.answer.objectID)
	switch name {
	case noIdentity:
		return cell{name, plain}
	case nodes:
		return cell{name, yellow}
	}
	return cell{name, green}
}

// outcome returns what the client got.
func (a result) outcome() cell {
	switch {
	case a.answer.refusal != "":
		return cell{text: a.answer.refusal}
	case a.client == curlInstance:
		return cell{text: "this VM is " + a.answer.body}
	case a.answer.vault == vaultOK:
		return cell{text: "the vault: a secret set, read, deleted"}
	case a.answer.vault != "":
		return cell{text: "the vault: " + a.answer.vault}
	}
	return cell{text: "a token"}
}
