package convert

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/sidestep-agent/sidestep/pkg/commands"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// command returns the one that lets the account use the identity.
func (id *identity) command(issuer string, a *account) string {
	if id.application {
		return id.applicationCommand(issuer, a)
	}
	return fmt.Sprintf("az identity federated-credential create --name %s %s \\\n  --issuer %s \\\n  --subject %s \\\n  --audiences %s",
		commands.Word(credentialName(issuer, a)), id.flags(), commands.Word(issuer), commands.Word(a.subject()), commands.Word(workload.TokenAudience))
}

// applicationCommand is the same for an app registration.
func (id *identity) applicationCommand(issuer string, a *account) string {
	parameters := jsonText(map[string]any{
		"name": credentialName(issuer, a), "issuer": issuer, "subject": a.subject(), "audiences": []string{workload.TokenAudience},
	})
	return fmt.Sprintf("az ad app federated-credential create --id %s --parameters %s", commands.Word(id.clientID), commands.Word(parameters))
}

// flags name the managed identity to az.
func (id *identity) flags() string {
	r := id.resource
	if r.id == "" {
		r.name, r.group, r.subscription = "<identity>", "<resource-group>", "<subscription>"
	}
	return fmt.Sprintf("--identity-name %s --resource-group %s --subscription %s", commands.Word(r.name), commands.Word(r.group), commands.Word(r.subscription))
}

// complete reports whether the command for the account can be run as it is.
func (id *identity) complete(a *account) bool {
	return a.filledIn && (id.application || id.resource.id != "")
}

// countCommand prints how many federated credentials there are.
func (id *identity) countCommand() string {
	if id.application {
		return "az ad app federated-credential list --id " + commands.Word(id.clientID) + " --query 'length(@)'"
	}
	return "az identity federated-credential list " + id.flags() + " --query 'length(@)'"
}

// credentialName returns a name of its own for the account's credential.
func credentialName(issuer string, a *account) string {
	if !a.filledIn {
		return "<a name of its own>" // one for all that are filled in would replace each by the next
	}
	return commands.CredentialName(a.namespace, a.name, issuer, a.subject())
}

// jsonText returns strings and lists of them as JSON on one line, with < and >
// as they are.
func jsonText(v any) string {
	var out strings.Builder
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic(err) // neither has a form that JSON lacks
	}
	return strings.TrimSuffix(out.String(), "\n")
}
