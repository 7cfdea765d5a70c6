package convert

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/workload"
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

// printAccounts writes one document per account.
func (p *Plan) printAccounts(out *bytes.Buffer) {
	if len(p.accounts) == 0 {
		comment(out, "none")
	}
	for _, a := range p.accounts {
		out.WriteString("---\n")
		comment(out, "for pods labelled "+bindingLabel+"="+strings.Join(a.selectors, " or "))
		if a.replaces != "" {
			comment(out, "new, for "+a.owner.String()+" in place of "+a.replaces+": copy what its pods need of that, imagePullSecrets and RoleBindings")
		}
		for i, id := range a.identities {
			comment(out, accountComment(i, len(a.identities), id))
		}
		if !a.filledIn {
			comment(out, "fill in what stands between < and >: the API server refuses it as it is")
		}
		write(out, a.object())
	}
}

func accountComment(i, of int, id *identity) string {
	switch {
	case of == 1:
		return "AzureIdentity " + id.String()
	case i == 0:
		return "AzureIdentity " + id.String() + ", for requests that name no client id"
	}
	return "AzureIdentity " + id.String() + ", for requests that name it"
}

// object returns the service account with nothing but what is to be set, so
// that applying it leaves one that exists as it is otherwise.
func (a *account) object() any {
	annotations := map[string]string{workload.ClientIDAnnotation: a.identities[0].clientID}
	if tenant := a.identities[0].tenantID; tenant != "" {
		annotations[workload.TenantIDAnnotation] = tenant
	}
	if list := a.mapped(); list != "" {
		annotations[workload.IdentitiesAnnotation] = list
	}
	return map[string]any{
		"apiVersion": "v1",
		"kind":       "ServiceAccount",
		"metadata":   map[string]any{"name": a.name, "namespace": a.namespace, "annotations": annotations},
	}
}

// mapped returns the annotation that lets applications name an identity by
// other ids than the client's, and "" where there is no such id. It has
// workload.MappedIdentity's names, and no empty ones.
func (a *account) mapped() string {
	type entry struct {
		ClientID    string `json:"clientId"`
		ResourceID  string `json:"id,omitempty"`
		PrincipalID string `json:"principalId,omitempty"`
	}
	var entries []entry
	for _, id := range a.identities {
		if id.resource.id != "" || len(a.identities) > 1 {
			entries = append(entries, entry{id.clientID, id.resource.id, id.principalID})
		}
	}
	if len(entries) == 0 {
		return ""
	}
	return jsonText(entries)
}

// printConfiguration writes a configuration that changes nothing yet.
func (p *Plan) printConfiguration(out *bytes.Buffer) {
	fmt.Fprintf(out, "apiVersion: %s\nkind: %s\n", config.APIVersion, config.Kind)
	comment(out, "Counts and shows only. Turn it to enforce once the pods have their label.")
	fmt.Fprintf(out, "mode: %s\n", config.ModeAudit)
	comment(out, "Turn it to metadata-only before aad-pod-identity is removed: it gave pods without a binding no identity,")
	comment(out, "and the node's metadata service, which they reach then, gives them the node's.")
	fmt.Fprintf(out, "unlabeled: %s\n", config.UnlabeledPass)
	out.WriteString("exceptions:\n")
	for _, e := range p.exceptions {
		comment(out, e.comment)
		write(out, []map[string]any{e.fields()})
	}
}

// fields returns the exception without the fields that are empty.
func (e exception) fields() map[string]any {
	return map[string]any{"namespaces": e.Namespaces, "podSelector": e.PodSelector}
}

// write writes the object as YAML, in which every string is quoted that needs
// it. What is written here always has a form in YAML.
func write(out *bytes.Buffer, object any) {
	text, err := yaml.Marshal(object)
	if err != nil {
		panic(err)
	}
	out.Write(text)
}
