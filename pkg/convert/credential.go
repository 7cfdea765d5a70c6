package convert

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
)

// audience is what Entra wants a token to be for, and what the tokens that the
// webhook projects are for.
const audience = "api://AzureADTokenExchange"

// command returns the one that lets the account use the identity.
func (id *identity) command(issuer string, a *account) string {
	if id.application {
		return id.applicationCommand(issuer, a)
	}
	return fmt.Sprintf("az identity federated-credential create --name %s %s \\\n  --issuer %s \\\n  --subject %s \\\n  --audiences %s",
		quote(credentialName(issuer, a)), id.flags(), quote(issuer), quote(a.subject()), quote(audience))
}

// applicationCommand is the same for an app registration.
func (id *identity) applicationCommand(issuer string, a *account) string {
	parameters := jsonText(map[string]any{
		"name": credentialName(issuer, a), "issuer": issuer, "subject": a.subject(), "audiences": []string{audience},
	})
	return fmt.Sprintf("az ad app federated-credential create --id %s --parameters %s", quote(id.clientID), quote(parameters))
}

// flags name the managed identity to az.
func (id *identity) flags() string {
	r := id.resource
	if r.id == "" {
		r.name, r.group, r.subscription = "<identity>", "<resource-group>", "<subscription>"
	}
	return fmt.Sprintf("--identity-name %s --resource-group %s --subscription %s", quote(r.name), quote(r.group), quote(r.subscription))
}

// complete reports whether the command for the account can be run as it is.
func (id *identity) complete(a *account) bool {
	return a.filledIn && (id.application || id.resource.id != "")
}

// countCommand prints how many federated credentials there are.
func (id *identity) countCommand() string {
	if id.application {
		return "az ad app federated-credential list --id " + quote(id.clientID) + " --query 'length(@)'"
	}
	return "az identity federated-credential list " + id.flags() + " --query 'length(@)'"
}

// credentialName returns a name that says whose it is, and that no other issuer
// and subject has: to create a credential of a name that is taken is to replace
// it. Entra takes 3 to 120 letters, digits, dashes and underscores.
func credentialName(issuer string, a *account) string {
	if !a.filledIn {
		return "<a name of its own>" // one for all that are filled in would replace each by the next
	}
	sum := sha256.Sum256([]byte(issuer + "\x00" + a.subject()))
	name := strings.ReplaceAll(a.namespace+"-"+a.name, ".", "-")
	if len(name) > 100 {
		name = name[:100]
	}
	return fmt.Sprintf("%s-%x", name, sum[:4])
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

// quote returns s as one word of a POSIX shell.
func quote(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@%+,"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
