// Command vault-1.23.0 logs in to a HashiCorp Vault as its agent and its clients
// do in Azure: with a managed identity's token and what the metadata service
// says of the machine.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/azure"

	"github.com/sidestep-agent/sidestep/test/clients/go/client"
)

func main() { client.Main(open) }

func open(r client.Request) (client.Credential, error) {
	if r.Mode != "managed" || r.By != "none" {
		return nil, r.ErrUnknown()
	}
	config := api.DefaultConfig()
	config.Address = os.Getenv("LAB_VAULT_URL")
	sent := &login{RoundTripper: config.HttpClient.Transport}
	config.HttpClient.Transport = sent
	vault, err := api.NewClient(config)
	if err != nil {
		return nil, err
	}
	method, err := azure.NewAzureAuth("app", azure.WithResource(r.Resource))
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (string, error) {
		secret, err := vault.Auth().Login(ctx, method)
		if err != nil {
			return "", err
		}
		if secret.Auth.ClientToken == "" {
			return "", errors.New("the vault gave no token")
		}
		return sent.jwt, nil
	}, nil
}

// login keeps the token that a login was sent with.
type login struct {
	http.RoundTripper
	jwt string
}

// RoundTrip implements http.RoundTripper.
func (l *login) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var sent struct {
		JWT string `json:"jwt"`
	}
	if err := json.Unmarshal(body, &sent); err != nil {
		return nil, err
	}
	l.jwt = sent.JWT
	return l.RoundTripper.RoundTrip(r)
}
