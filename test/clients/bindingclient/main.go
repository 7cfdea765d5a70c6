// Command bindingclient is an ordinary program of the Azure SDK that knows of
// AKS identity bindings: it gets a token through the proxy that the webhook's
// environment names. Its test keeps the record of what the SDK sends, which
// pkg/tokens is held to. It prints one line of JSON with whose token came.
//
// It is a module of its own, so that the SDK is no dependency of the agent.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

const (
	vaultScope = "https://vault.azure.net/.default"
	timeLimit  = 20 * time.Second
)

// result is the line that the program prints.
type result struct {
	ObjectID string `json:"oid"`
	Error    string `json:"error"`
}

func main() {
	if err := run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bindingclient:", err)
		os.Exit(1)
	}
}

func run(stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeLimit)
	defer cancel()
	var r result
	token, err := get(ctx, false)
	if err == nil {
		r.ObjectID, err = objectID(token)
	}
	if err != nil {
		r.Error = strings.Join(strings.Fields(err.Error()), " ")
	}
	return json.NewEncoder(stdout).Encode(r)
}

// get returns a token for the vault by the environment that the webhook sets.
func get(ctx context.Context, withoutInstanceDiscovery bool) (string, error) {
	credential, err := azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{
		EnableAzureProxy:         true,
		DisableInstanceDiscovery: withoutInstanceDiscovery,
	})
	if err != nil {
		return "", err
	}
	token, err := credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{vaultScope}})
	return token.Token, err
}

// objectID reads whose the token says that it is.
func objectID(token string) (string, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", errors.New("the token is no JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", errors.New("the token's claims cannot be decoded")
	}
	var claims struct {
		ObjectID string `json:"oid"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return "", errors.New("the token's claims are no JSON object")
	}
	return claims.ObjectID, nil
}
