package main

import (
	"fmt"

	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/managedidentity"
)

// otherRoads are the variables by which the SDK (azidentity 1.15.0 and MSAL
// 1.10.1 beneath it) or Go's HTTP client would get a token from elsewhere than
// IMDS's own address, in this credential or in DefaultAzureCredential.
var otherRoads = []string{
	// Sources of managed identity that go before IMDS.
	"IDENTITY_ENDPOINT", "IDENTITY_HEADER", "IDENTITY_SERVER_THUMBPRINT", "IMDS_ENDPOINT",
	"MSI_ENDPOINT", "MSI_SECRET", "DEFAULT_IDENTITY_CLIENT_ID",
	// Another host for IMDS, in other SDKs.
	"AZURE_POD_IDENTITY_AUTHORITY_HOST",
	// Workload identity without IMDS.
	"AZURE_FEDERATED_TOKEN_FILE", "AZURE_KUBERNETES_TOKEN_PROXY",
	// Other credentials of the default chain.
	"AZURE_TOKEN_CREDENTIALS", "AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_USERNAME",
	// A proxy between.
	"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy",
}

// onlyIMDS returns an error if the SDK would not ask IMDS.
func onlyIMDS(getenv func(string) string) error {
	for _, name := range otherRoads {
		if getenv(name) != "" {
			return fmt.Errorf("%s is set: the SDK might not ask IMDS; unset it", name)
		}
	}
	// A file of Azure Arc's agent changes the source as well.
	source, err := managedidentity.GetSource()
	if err != nil {
		return fmt.Errorf("find out whom the SDK would ask: %w", err)
	}
	if source != managedidentity.DefaultToIMDS {
		return fmt.Errorf("the SDK would ask %s and not IMDS", source)
	}
	return nil
}
