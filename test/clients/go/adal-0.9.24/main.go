// Command adal-0.9.24 gets tokens with go-autorest's adal.
package main

import (
	"context"
	"errors"

	"github.com/Azure/go-autorest/autorest/adal"

	"github.com/sidestep-agent/sidestep/test/clients/go/client"
)

func main() { client.Main(open) }

func open(r client.Request) (client.Credential, error) {
	var options adal.ManagedIdentityOptions
	switch r.By {
	case "none":
	case "client":
		options.ClientID = r.ID
	case "resource":
		options.IdentityResourceID = r.ID
	default:
		return nil, r.ErrUnknown()
	}
	// What programs do that try one way to a token after another.
	if r.Mode == "default" && !adal.MSIAvailable(context.Background(), nil) {
		return nil, errors.New("the library sees no managed identity here")
	}
	token, err := adal.NewServicePrincipalTokenFromManagedIdentity(r.Resource, &options)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (string, error) {
		err := token.EnsureFreshWithContext(ctx)
		return token.OAuthToken(), err
	}, nil
}
