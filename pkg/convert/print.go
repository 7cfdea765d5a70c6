package convert

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// Parts are what Print can print: everything to review, with the commands as
// comments; the service accounts for kubectl apply; the az commands and the
// commands that label workloads for a shell; the agent's configuration.
var Parts = []string{"all", "accounts", "credentials", "labels", "configuration"}

// Print writes one of Parts. Its error is the writer's.
func (p *Plan) Print(w io.Writer, part string) error {
	var out bytes.Buffer
	switch part {
	case "accounts":
		p.printAccounts(&out)
	case "credentials":
		p.printCredentials(&out)
	case "labels":
		p.printLabels(&out)
	case "configuration":
		p.printConfiguration(&out)
	default:
		p.printAll(&out)
	}
	_, err := w.Write(out.Bytes())
	return err
}

// printAll writes YAML in which whatever is for a shell is a comment.
func (p *Plan) printAll(out *bytes.Buffer) {
	comment(out, "Review this. Apply its parts with --print=credentials, accounts, labels, configuration.")
	if len(p.Warnings) > 0 {
		comment(out, "\nWarnings:")
	}
	for _, warning := range p.Warnings {
		comment(out, "- "+warning)
	}
	section(out, "1. Federated credentials (--print=credentials | sh)")
	commented(out, p.printCredentials)
	section(out, "2. Service accounts (--print=accounts | kubectl apply --server-side -f -)")
	p.printAccounts(out)
	section(out, "3. Labels of pods (--print=labels | sh): their pods restart")
	commented(out, p.printLabels)
	section(out, "4. The agent's configuration (--print=configuration > config.yaml)")
	out.WriteString("---\n")
	p.printConfiguration(out)
}

func section(out *bytes.Buffer, title string) {
	out.WriteString("\n")
	comment(out, title)
}

// commented writes what part writes, as comments.
func commented(out *bytes.Buffer, part func(*bytes.Buffer)) {
	var text bytes.Buffer
	part(&text)
	comment(out, strings.TrimSuffix(text.String(), "\n"))
}

// comment writes each line of the text as one.
func comment(out *bytes.Buffer, text string) {
	for l := range strings.SplitSeq(text, "\n") {
		fmt.Fprintln(out, strings.TrimSuffix("# "+l, " "))
	}
}

func (p *Plan) printCredentials(out *bytes.Buffer) {
	if len(p.accounts) == 0 {
		comment(out, "none")
		return
	}
	comment(out, "How many each identity gets:")
	for _, limit := range p.limits {
		comment(out, "- "+limit)
	}
	for _, a := range p.accounts {
		for _, id := range a.identities {
			command := id.command(p.issuer, a)
			switch {
			case id.unsupported:
				comment(out, "the region of "+id.String()+" takes none; put an identity of another region in its place, then run:\n"+command)
			case !id.complete(a):
				comment(out, "fill in what stands between < and >, then run:\n"+command)
			default:
				fmt.Fprintln(out, command)
			}
		}
	}
}

func (p *Plan) printLabels(out *bytes.Buffer) {
	if len(p.labels) == 0 {
		comment(out, "none")
	}
	for _, l := range p.labels {
		if text, command := l.command(); command {
			fmt.Fprintln(out, text)
		} else {
			comment(out, text)
		}
	}
}
