package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/accesstoken"
	"github.com/sidestep-agent/sidestep/test/standins/jwks"
)

// caseLimit ends a client that waits for longer than any application would.
const caseLimit = 90 * time.Second

// result is the line that a client prints.
type result struct {
	Tokens []string `json:"tokens"` // secret: printed nowhere
	Error  string   `json:"error"`
	Vault  string   `json:"vault"` // "ok", if it used the vault
	Blob   string   `json:"blob"`  // "ok", if it wrote a blob and read it
	Cloud  string   `json:"cloud"` // what a detector found
}

// environment is all that a client has from the suite. Nothing in it leads
// past the metadata service.
func environment(s *scene.Scene, home string) []string {
	return []string{
		"PATH=/usr/bin:/bin", "HOME=" + home,
		// The stand-ins' CA, in the variables of OpenSSL and Go, requests and Node.js.
		"SSL_CERT_FILE=" + s.CA, "REQUESTS_CA_BUNDLE=" + s.CA, "NODE_EXTRA_CA_CERTS=" + s.CA,
		"LAB_ARM_URL=" + armURL, "LAB_VAULT_URL=" + armURL,
		"LAB_ZONE=" + zoneName, "LAB_KEY_AUTHORIZATION=" + keyAuthority,
	}
}

// ask runs the client once in the pod, with a home directory of its own, so
// that nothing is left of the time before.
func ask(ctx context.Context, s *scene.Scene, pod *scene.Workload, c client, t testCase, id string) (result, error) {
	home, err := os.MkdirTemp(s.Home, "")
	if err != nil {
		return result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, caseLimit)
	defer cancel()
	vaultURL := ""
	if c.vault {
		vaultURL = scene.VaultURL
	}
	arguments := append(slices.Clone(c.command[1:]), t.mode, t.by, id, c.audience(), vaultURL)
	cmd := exec.CommandContext(ctx, c.command[0], arguments...)
	var stdout, stderr bytes.Buffer
	cmd.Env, cmd.Dir = environment(s, home), home
	if c.blobs {
		cmd.Env = append(cmd.Env, "LAB_BLOB_URL="+blobURL, "LAB_ACCOUNT_URL=https://"+storageHost)
	}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := pod.Pod.Start(cmd); err != nil {
		return result{}, fmt.Errorf("start %s: %w", c.command[0], err)
	}
	_ = cmd.Wait() // how it ended is in its state
	var r result
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		return result{}, fmt.Errorf("%s gave no answer (%s): %s", c.name, cmd.ProcessState, bytes.TrimSpace(stderr.Bytes()))
	}
	return r, nil
}

// claimsOf returns what the token says of its bearer.
func claimsOf(token string) (accesstoken.Claims, error) {
	payload, err := jwks.Payload(token)
	if err != nil {
		return accesstoken.Claims{}, err
	}
	var claims accesstoken.Claims
	return claims, json.Unmarshal(payload, &claims)
}
