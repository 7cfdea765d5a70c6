package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
)

const vaultScope = "https://vault.azure.net/.default"

// result is the line that the program prints. Times are milliseconds.
type result struct {
	ObjectID string `json:"oid"`
	AppID    string `json:"appid"`
	TenantID string `json:"tid"`
	Vault    string `json:"vault"` // "ok", or the innermost code of its error, as AccessDenied; empty: not asked
	TokenMS  int64  `json:"token_ms"`
	TotalMS  int64  `json:"total_ms"`
	Error    string `json:"error"`
}

// use gets a token and does the operation with the vault.
func use(ctx context.Context, c config, credential azcore.TokenCredential) (r result) {
	start := time.Now()
	defer func() { r.TotalMS = time.Since(start).Milliseconds() }()
	token, err := credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{vaultScope}})
	r.TokenMS = time.Since(start).Milliseconds()
	if err == nil {
		err = r.claims(token.Token)
	}
	if err != nil {
		r.Error = oneLine(err)
		return r
	}
	if c.tokenOnly {
		return r
	}
	r.Vault = "ok"
	if err := c.askVault(ctx, credential); err != nil {
		r.Vault, r.Error = vaultCode(err), oneLine(err)
	}
	return r
}

// claims reads who the token says that its bearer is. Whether it says the
// truth is for the vault to verify.
func (r *result) claims(token string) error {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return errors.New("the token is no JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return errors.New("the token's claims cannot be decoded")
	}
	var claims struct {
		ObjectID string `json:"oid"`
		AppID    string `json:"appid"`
		TenantID string `json:"tid"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return errors.New("the token's claims are no JSON object")
	}
	r.ObjectID, r.AppID, r.TenantID = claims.ObjectID, claims.AppID, claims.TenantID
	return nil
}

// operations are what can be done with a secret.
var operations = map[string]func(context.Context, *azsecrets.Client, string) error{
	"set": set, "get": get, "delete": remove, "roundtrip": roundtrip,
}

func (c config) askVault(ctx context.Context, credential azcore.TokenCredential) error {
	client, err := azsecrets.NewClient(c.vault, credential, &azsecrets.ClientOptions{
		ClientOptions: c.clientOptions(),
		// The vault under test has a name of its own, and not one below
		// vault.azure.net.
		DisableChallengeResourceVerification: true,
	})
	if err != nil {
		return err
	}
	return operations[c.op](ctx, client, c.secret)
}

func set(ctx context.Context, client *azsecrets.Client, name string) error {
	_, err := client.SetSecret(ctx, name, azsecrets.SetSecretParameters{Value: to.Ptr("written by vaultclient")}, nil)
	return err
}

func get(ctx context.Context, client *azsecrets.Client, name string) error {
	_, err := client.GetSecret(ctx, name, "", nil)
	return err
}

func remove(ctx context.Context, client *azsecrets.Client, name string) error {
	_, err := client.DeleteSecret(ctx, name, nil)
	return err
}

// roundtrip sets, reads and deletes a secret under a name that nobody had: the
// name of a deleted secret cannot be used again.
func roundtrip(ctx context.Context, client *azsecrets.Client, prefix string) error {
	name, value := prefix+"-"+rand.Text(), rand.Text()
	if _, err := client.SetSecret(ctx, name, azsecrets.SetSecretParameters{Value: &value}, nil); err != nil {
		return err
	}
	got, err := client.GetSecret(ctx, name, "", nil)
	if err != nil {
		return err
	}
	if got.Value == nil || *got.Value != value {
		return errors.New("the vault returned another value than was set")
	}
	return remove(ctx, client, name)
}

// vaultCode returns the innermost code of the vault's error, as AccessDenied,
// or "error" where the vault did not answer.
func vaultCode(err error) string {
	var answer *azcore.ResponseError
	if !errors.As(err, &answer) {
		return "error"
	}
	var body struct {
		Error struct {
			Inner struct {
				Code string `json:"code"`
			} `json:"innererror"`
		} `json:"error"`
	}
	if payload, err := runtime.Payload(answer.RawResponse); err == nil &&
		json.Unmarshal(payload, &body) == nil && body.Error.Inner.Code != "" {
		return body.Error.Inner.Code
	}
	if answer.ErrorCode != "" {
		return answer.ErrorCode
	}
	return fmt.Sprintf("HTTP %d", answer.StatusCode)
}

// oneLine folds the SDK's page of text.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
