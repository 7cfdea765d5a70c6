package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/sidestep-agent/sidestep/test/scene"
)

// sdkResult is the line that test/clients/vaultclient prints.
type sdkResult struct {
	ObjectID string `json:"oid"`
	Vault    string `json:"vault"`
	Error    string `json:"error"`
}

// azidentity gets a token with ManagedIdentityCredential and has azsecrets set,
// get and delete a secret with it.
func (s *setup) azidentity(ctx context.Context, w *workload) (answer, error) {
	cmd := exec.CommandContext(ctx, s.programs.vaultclient, "-vault", scene.VaultURL, "-secret", "demo")
	stdout, stderr, err := s.runIn(w, cmd)
	// It fails for lack of a token or of a right, too, and says so on stdout.
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return answer{}, err
	}
	var r sdkResult
	if err := json.Unmarshal(stdout, &r); err != nil {
		return answer{}, fmt.Errorf("%w: %s%s", err, stdout, stderr)
	}
	return r.answer(), nil
}

func (r sdkResult) answer() answer {
	a := answer{objectID: r.ObjectID, vault: r.Vault}
	if r.ObjectID == "" {
		a.refusal, a.refused = sdkFailure(r.Error)
	}
	return a
}

// sdkFailure returns the heart of azidentity's message, and whether it tells
// of a connect that failed: "dial tcp 169.254.169.254:80: connect: operation
// not permitted. To troubleshoot, visit …", or "The endpoint responded with
// {…}".
func sdkFailure(message string) (heart string, refused bool) {
	if _, cause, ok := strings.Cut(message, ": connect: "); ok {
		heart, _, _ = strings.Cut(cause, ". ")
		return heart, true
	}
	var said struct {
		Description string `json:"error_description"`
	}
	if _, body, ok := strings.Cut(message, "The endpoint responded with "); ok &&
		json.NewDecoder(strings.NewReader(body)).Decode(&said) == nil {
		return said.Description, false
	}
	return message, false
}
