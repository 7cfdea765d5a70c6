// Command msal-1.10.1 gets tokens with MSAL Go's managedidentity.
package main

import (
	"context"

	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/managedidentity"

	"github.com/sidestep-agent/sidestep/test/clients/go/client"
)

func main() { client.Main(open) }

func open(r client.Request) (client.Credential, error) {
	id, ok := map[string]managedidentity.ID{
		"none":     managedidentity.SystemAssigned(),
		"client":   managedidentity.UserAssignedClientID(r.ID),
		"object":   managedidentity.UserAssignedObjectID(r.ID),
		"resource": managedidentity.UserAssignedResourceID(r.ID),
	}[r.By]
	if !ok || r.Mode != "managed" {
		return nil, r.ErrUnknown()
	}
	c, err := managedidentity.New(id)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (string, error) {
		result, err := c.AcquireToken(ctx, r.Resource)
		return result.AccessToken, err
	}, nil
}
