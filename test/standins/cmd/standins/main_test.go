package main

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/sidestep-agent/sidestep/test/standins/imds"
	"github.com/sidestep-agent/sidestep/test/standins/journal"
	"github.com/sidestep-agent/sidestep/test/standins/pki"
	"github.com/sidestep-agent/sidestep/test/standins/vault"
)

const nodeObject = "e8b35c07-4f92-4d6a-97c1-0a5b8d3e6f05" // in federation.yaml

// The node's token is good in itself, and the vault refuses it all the same:
// each log has its half of the story.
func TestNodeTokenAtTheVault(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	token := nodeToken(t, s.imds.Addr().String())
	if status := secret(t, s, dir, token); status != http.StatusForbidden {
		t.Errorf("the vault answered %d to the node's token, want 403", status)
	}
	if status := secret(t, s, dir, token+"x"); status != http.StatusUnauthorized {
		t.Errorf("the vault answered %d to a forged token, want 401", status)
	}
	issued := entries[imds.Entry](t, dir, "imds.jsonl")
	if len(issued) != 1 || issued[0].ObjectID != nodeObject {
		t.Errorf("IMDS's log %+v, want one token of the node's", issued)
	}
	asked := entries[vault.Entry](t, dir, "vault.jsonl")
	if len(asked) != 2 || asked[0].ObjectID != nodeObject || asked[0].Code != "AccessDenied" || asked[1].ObjectID != "" {
		t.Errorf("the vault's log %+v, want AccessDenied for the node, then nobody", asked)
	}
}

func TestTokensOutliveARestart(t *testing.T) {
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	first := launch(t, ctx, dir)
	token := nodeToken(t, first.imds.Addr().String())
	stop()
	<-first.done
	if status := secret(t, start(t, dir), dir, token); status != http.StatusForbidden {
		t.Errorf("after a restart the vault answered %d, want 403: the token is still genuine", status)
	}
}

type running struct {
	*servers
	done chan struct{} // closed when all have stopped
}

// launch runs the stand-ins on free ports until ctx ends.
func launch(t *testing.T, ctx context.Context, dir string) running {
	t.Helper()
	s, err := open(ctx, config{
		federation: "../../../node/federation.yaml", state: dir, logs: dir, vaultName: "tutorial",
		entraListen: "127.0.0.1:0", imdsListen: "127.0.0.1:0", vaultListen: "127.0.0.1:0",
	})
	if err != nil {
		t.Fatal(err)
	}
	r := running{s, make(chan struct{})}
	go func() {
		defer close(r.done)
		if err := s.serve(ctx); err != nil {
			t.Errorf("serve: %v", err)
		}
	}()
	return r
}

func start(t *testing.T, dir string) running {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	r := launch(t, ctx, dir)
	t.Cleanup(func() { stop(); <-r.done })
	return r
}

func nodeToken(t *testing.T, address string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
		"http://"+address+"/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Metadata", "true")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Token == "" {
		t.Fatalf("no token: status %d, error %v", resp.StatusCode, err)
	}
	return answer.Token
}

// secret asks the vault for a secret and returns the status.
func secret(t *testing.T, s running, dir, token string) int {
	t.Helper()
	ca, err := pki.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+s.vault.Addr().String()+"/secrets/s?api-version=7.6", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := client(ca.Pool(), "").Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func entries[E any](t *testing.T, dir, name string) []E {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := journal.Read[E](f)
	if err != nil {
		t.Fatal(err)
	}
	return all
}
