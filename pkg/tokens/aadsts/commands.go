package aadsts

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/sidestep-agent/sidestep/pkg/commands"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// guid is what may stand inside a query; everything else is an argument of its
// own, and quoted.
var guid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// createCredential makes the federated credential that the assertion needs.
func createCredential(f Facts) string {
	name := commands.CredentialName(f.Namespace, f.Account, f.Issuer, f.Subject)
	return f.withIdentity("az identity federated-credential create --name " + commands.Word(name) + f.credential())
}

// updateCredential corrects the audience of the credential that is there:
// Entra takes no second one for the same issuer and subject.
func updateCredential(f Facts) string {
	find := fmt.Sprintf(`"$(az identity federated-credential list%s --query %s --output tsv)"`, identityFlags,
		commands.Word(fmt.Sprintf("[?issuer=='%s' && subject=='%s'].name", queryText(f.Issuer), queryText(f.Subject))))
	return f.withIdentity("az identity federated-credential update --name " + find + f.credential())
}

// credential returns the flags that describe the credential.
func (f Facts) credential() string {
	return fmt.Sprintf("%s --issuer %s --subject %s --audiences %s",
		identityFlags, commands.Word(f.Issuer), commands.Word(f.Subject), commands.Word(f.Audience))
}

// identityFlags name the managed identity; withIdentity sets the variables.
const identityFlags = ` --identity-name "$name" --resource-group "$group"`

// withIdentity completes a command that has identityFlags in it: by the
// identity's ARM id where that is known, else by a look-up of its client id in
// the subscription that az is set to. A client id that is no GUID belongs to no application.
func (f Facts) withIdentity(command string) string {
	if name, group, subscription, ok := parseResourceID(f.ResourceID); ok {
		flags := " --identity-name " + commands.Word(name) + " --resource-group " + commands.Word(group) + " --subscription " + commands.Word(subscription)
		return strings.ReplaceAll(command, identityFlags, flags)
	}
	if !guid.MatchString(f.ClientID) {
		return ""
	}
	return fmt.Sprintf(`read -r name group <<<"$(az identity list --query "[?clientId=='%s'].[name,resourceGroup]" --output tsv)" && %s`, f.ClientID, command)
}

// parseResourceID returns the parts of a user-assigned identity's ARM id.
func parseResourceID(id string) (name, group, subscription string, ok bool) {
	p := strings.Split(id, "/")
	ok = len(p) == 9 && p[0] == "" && strings.EqualFold(p[1], "subscriptions") && strings.EqualFold(p[3], "resourceGroups") &&
		strings.EqualFold(strings.Join(p[5:8], "/"), "providers/Microsoft.ManagedIdentity/userAssignedIdentities")
	if !ok {
		return "", "", "", false
	}
	return p[8], p[4], p[2], true
}

const tenantAnnotation = " " + workload.TenantIDAnnotation + "="

func (f Facts) annotate() string {
	return fmt.Sprintf("kubectl annotate serviceaccount --overwrite --namespace %s %s", commands.Word(f.Namespace), commands.Word(f.Account))
}

// annotateTenantOfClient sets the tenant in which the identity is.
func annotateTenantOfClient(f Facts) string {
	if !guid.MatchString(f.ClientID) {
		return ""
	}
	return fmt.Sprintf(`%s%s"$(az identity list --query "[?clientId=='%s'].tenantId" --output tsv)"`, f.annotate(), tenantAnnotation, f.ClientID)
}

// annotateOwnTenant sets the tenant that whoever runs it is signed in to.
func annotateOwnTenant(f Facts) string {
	return f.annotate() + tenantAnnotation + `"$(az account show --query tenantId --output tsv)"`
}

func enableClient(f Facts) string {
	return "az ad sp update --id " + commands.Word(f.ClientID) + " --set accountEnabled=true"
}

// createPrincipal creates the service principal of the client's application.
func createPrincipal(f Facts) string {
	if !guid.MatchString(f.ClientID) {
		return ""
	}
	return "az ad sp create --id " + f.ClientID
}

// createResource installs the resource's application in the tenant.
func createResource(f Facts) string {
	if len(f.Resource) > maxShown || f.asksForScope() {
		return ""
	}
	return "az ad sp create --id " + commands.Word(f.Resource)
}

func listPolicies(Facts) string {
	return "az rest --method get --url " + commands.Word("https://graph.microsoft.com/v1.0/identity/conditionalAccess/policies?$select=displayName,state,conditions")
}

// queryText returns s for a raw string of JMESPath, in which an apostrophe
// would end it. Neither issuers nor subjects have one.
func queryText(s string) string {
	return strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s)
}
