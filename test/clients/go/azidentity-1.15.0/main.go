// Command azidentity-1.15.0 gets tokens with azidentity 1.15.0.
package main

import (
	"context"
	"os"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/sidestep-agent/sidestep/test/clients/go/client"
)

func main() { client.Main(open) }

func open(r client.Request) (client.Credential, error) {
	credential, err := credential(r)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (string, error) {
		token, err := credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{r.Scope()}})
		return token.Token, err
	}, nil
}

func credential(r client.Request) (azcore.TokenCredential, error) {
	if r.Mode == "default" {
		return chain(r)
	}
	var options azidentity.ManagedIdentityCredentialOptions
	switch r.By {
	case "none":
	case "client":
		options.ID = azidentity.ClientID(r.ID)
	case "object":
		options.ID = azidentity.ObjectID(r.ID)
	case "resource":
		options.ID = azidentity.ResourceID(r.ID)
	default:
		return nil, r.ErrUnknown()
	}
	return azidentity.NewManagedIdentityCredential(&options)
}

// chain names the identity as azure-workload-identity's webhook does.
func chain(r client.Request) (azcore.TokenCredential, error) {
	switch r.By {
	case "none":
	case "client":
		if err := os.Setenv("AZURE_CLIENT_ID", r.ID); err != nil {
			return nil, err
		}
	default:
		return nil, r.ErrUnknown()
	}
	return azidentity.NewDefaultAzureCredential(nil)
}
