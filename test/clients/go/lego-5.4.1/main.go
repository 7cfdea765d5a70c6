// Command lego-5.4.1 proves to a certificate authority, by records in a zone of
// Azure DNS, that a domain is its own, as lego and what is built on it do. What
// it sends to Azure, and with whose token, Azure Resource Manager sees.
package main

import (
	"context"
	"os"

	"github.com/go-acme/lego/v5/providers/dns/azuredns"

	"github.com/sidestep-agent/sidestep/test/clients/go/client"
)

func main() { client.Use(use) }

// use adds the record and removes it. lego is told all by environment variables,
// of which Azure's library reads some as well.
func use(ctx context.Context, r client.Request) error {
	variables := map[string]string{
		"AZURE_ZONE_NAME": os.Getenv("LAB_ZONE"), "AZURE_AUTH_METHOD": "msi",
		"LEGO_DISABLE_CNAME_SUPPORT": "true", // the lab has no DNS
	}
	switch {
	case r.Mode == "managed" && r.By == "none":
	case r.Mode == "default" && r.By == "client":
		variables["AZURE_AUTH_METHOD"], variables["AZURE_CLIENT_ID"] = "", r.ID
	case r.Mode == "default" && r.By == "none":
		variables["AZURE_AUTH_METHOD"] = ""
	default:
		return r.ErrUnknown()
	}
	for name, value := range variables {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	provider, err := azuredns.NewDNSProvider()
	if err != nil {
		return err
	}
	domain, keyAuth := "app."+os.Getenv("LAB_ZONE"), os.Getenv("LAB_KEY_AUTHORIZATION")
	if err := provider.Present(ctx, domain, "", keyAuth); err != nil {
		return err
	}
	return provider.CleanUp(ctx, domain, "", keyAuth)
}
