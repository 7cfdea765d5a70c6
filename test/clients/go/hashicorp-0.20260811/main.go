// Command hashicorp-0.20260811 gets tokens with hashicorp/go-azure-sdk, as
// Terraform's providers for Azure do.
package main

import (
	"context"

	"github.com/hashicorp/go-azure-sdk/sdk/auth"
	"github.com/hashicorp/go-azure-sdk/sdk/environments"
	"golang.org/x/oauth2"

	"github.com/sidestep-agent/sidestep/test/clients/go/client"
)

func main() { client.Main(open) }

func open(r client.Request) (client.Credential, error) {
	if r.Mode != "managed" || r.By != "none" && r.By != "client" {
		return nil, r.ErrUnknown()
	}
	ctx := context.Background()
	authorizer, err := auth.NewManagedIdentityAuthorizer(ctx, auth.ManagedIdentityAuthorizerOptions{
		Api: environments.NewApiEndpoint("Vault", r.Resource, nil).WithResourceIdentifier(r.Resource), ClientId: r.ID,
	})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (string, error) {
		token, err := authorizer.Token(ctx, nil)
		if err != nil {
			return "", err
		}
		return (*oauth2.Token)(token).AccessToken, nil
	}, nil
}
