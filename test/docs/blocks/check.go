package blocks

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// tools are those that no test can have, with the reason.
var tools = map[string]string{
	"az":         "an Azure subscription",
	"cosign":     "a published release and its transparency log",
	"gh":         "a published release",
	"docker":     "a container engine and a public registry",
	"journalctl": "a node whose kubelet is a unit of systemd",
	"tcpdump":    "an image of somebody's that has it, and somebody who watches",
}

var (
	assignment = regexp.MustCompile(`^\w+=\S*$`)
	target     = regexp.MustCompile(`^make ([a-z-]+)( [A-Z_]+=\S+)*$`)
)

// Check returns what is wrong with the block's marker: there is none, it is
// unknown, or it would hide what could run. tested are the Makefile's targets
// that some other test runs.
func (b Block) Check(tested []string) error {
	switch {
	case b.Run != "" && b.Needs != "":
		return errors.New("it is marked twice")
	case b.Needs != "":
		return b.checkNeeds()
	}
	switch b.Run {
	case "":
		return errors.New("no comment above it says where it runs (test/docs/blocks)")
	case Machine, Node, Rig, Fresh, Clients:
		return nil
	case Make:
		return b.checkTargets(tested)
	}
	return fmt.Errorf("%q is no place where a block runs", b.Run)
}

// checkNeeds wants the tool in each command: one that does without it is to be
// in a block that runs.
func (b Block) checkNeeds() error {
	if tools[b.Needs] == "" {
		return fmt.Errorf("%q is not a tool that tests have to do without", b.Needs)
	}
	uses := regexp.MustCompile(`(^|[\s(])(` + toolNames() + `)\s`)
	named := false
	for _, c := range b.Commands() {
		if assignment.MatchString(c) {
			continue
		}
		m := uses.FindStringSubmatch(c + " ")
		if m == nil {
			return fmt.Errorf("%q does not need %s: it could run", c, b.Needs)
		}
		named = named || m[2] == b.Needs
	}
	if !named {
		return fmt.Errorf("nothing in it needs %s", b.Needs)
	}
	return nil
}

func toolNames() string {
	var names []string
	for name := range tools {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, "|")
}

func (b Block) checkTargets(tested []string) error {
	for _, c := range b.Commands() {
		m := target.FindStringSubmatch(c)
		if m == nil {
			return fmt.Errorf("%q is not a target of make alone", c)
		}
		if !slices.Contains(tested, m[1]) {
			return fmt.Errorf("no test runs make %s", m[1])
		}
	}
	return nil
}
