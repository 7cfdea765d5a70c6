package federation

import (
	"slices"
	"strings"
)

// firstParty are Microsoft's own resources, for which every tenant has tokens
// without anybody installing anything: by the audiences that Microsoft's pages
// name, and by application id where clients use that.
// https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/services-id-authentication-support
var firstParty = []string{
	"https://management.azure.com",
	"https://management.core.windows.net",
	"https://graph.microsoft.com",
	"https://vault.azure.net",
	"https://managedhsm.azure.net",
	"https://storage.azure.com",
	"https://disk.azure.com",
	"https://database.windows.net",
	"https://ossrdbms-aad.database.windows.net",
	"https://cosmos.azure.com",
	"https://redis.azure.com",
	"https://servicebus.azure.net",
	"https://eventhubs.azure.net",
	"https://eventgrid.azure.net",
	"https://signalr.azure.com",
	"https://webpubsub.azure.com",
	"https://containerregistry.azure.net",
	"https://azconfig.io",
	"https://appconfig.azure.com",
	"https://search.azure.com",
	"https://cognitiveservices.azure.com",
	"https://ai.azure.com",
	"https://ml.azure.com",
	"https://monitor.azure.com",
	"https://monitoring.azure.com",
	"https://prometheus.monitor.azure.com",
	"https://api.loganalytics.io",
	"https://batch.core.windows.net",
	"https://datalake.azure.net",
	"https://dev.azuresynapse.net",
	"https://kusto.kusto.windows.net",
	"https://devcenter.azure.com",
	"https://attest.azure.net",
	"https://communication.azure.com",
	"https://atlas.microsoft.com",
	"6dae42f8-4368-4678-94ff-3960e28e3630", // AKS: the API server, for kubelogin
	"499b84ac-1321-427f-aa17-267ca6975798", // Azure DevOps
	"api://AzureADTokenExchange",           // for an identity of another tenant
}

// ofAccounts are the hosts of storage accounts, each of which is a resource.
var ofAccounts = []string{
	".blob.core.windows.net", ".queue.core.windows.net", ".table.core.windows.net", ".file.core.windows.net", ".dfs.core.windows.net",
}

// HasResource reports whether tokens can be had for the resource: one of
// Microsoft's own, or one that the file names. A slash at its end does not
// matter, as with Entra, which puts it into the token's audience as it was asked
// for.
func (f File) HasResource(resource string) bool {
	resource = strings.TrimSuffix(resource, "/")
	return slices.Contains(f.Resources, resource) || slices.Contains(firstParty, resource) || isAccount(resource)
}

func isAccount(resource string) bool {
	host, ok := strings.CutPrefix(resource, "https://")
	return ok && slices.ContainsFunc(ofAccounts, func(suffix string) bool {
		account, ok := strings.CutSuffix(host, suffix)
		return ok && account != "" && !strings.ContainsAny(account, "./:")
	})
}
