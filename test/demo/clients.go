package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// answer is what a client got.
type answer struct {
	objectID string // of the token's identity; empty: no token
	token    string // secret: it is looked for in logs and printed nowhere
	status   int    // of the metadata service's answer; 0: not known
	peer     string // to whom the client thinks it spoke; empty: not known
	body     string
	refused  bool   // no connection came about
	refusal  string // why there is no token, in the client's words
	vault    string // what the vault said: vaultOK or its error's code; empty: it was not asked
}

// vaultOK is what vaultclient prints where the vault allowed everything.
const vaultOK = "ok"

// environment is all that a client has from the demo. It leads to nothing but
// the metadata service: there is no AZURE_… variable, no IDENTITY_ENDPOINT and
// no proxy in it.
func (s *setup) environment() []string {
	return []string{"PATH=/usr/bin:/bin", "HOME=" + s.Home, "SSL_CERT_FILE=" + s.CA}
}

// runIn runs a program in the workload's container.
func (s *setup) runIn(w *workload, cmd *exec.Cmd) (stdout, stderr []byte, err error) {
	var out, errs bytes.Buffer
	cmd.Env, cmd.Dir = s.environment(), s.Home
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := w.Pod.Start(cmd); err != nil {
		return nil, nil, fmt.Errorf("start %s in %s: %w", cmd.Path, w, err)
	}
	err = cmd.Wait()
	return out.Bytes(), errs.Bytes(), err
}

// arcAgent is the file by which azidentity finds out that it should ask the
// Azure Arc agent and not the metadata service.
const arcAgent = "/opt/azcmagent/bin/himds"

// otherSources returns whatever could lead a client in the workload's container
// past the metadata service, as a process there sees it.
func (s *setup) otherSources(ctx context.Context, w *workload) ([]string, error) {
	stdout, _, err := s.runIn(w, exec.CommandContext(ctx, s.programs.env))
	if err != nil {
		return nil, err
	}
	var sources []string
	for line := range strings.Lines(string(stdout)) {
		name, _, _ := strings.Cut(line, "=")
		if !slices.Contains([]string{"PATH", "HOME", "SSL_CERT_FILE"}, name) {
			sources = append(sources, "the variable "+name)
		}
	}
	if _, err := os.Stat(arcAgent); err == nil {
		sources = append(sources, arcAgent)
	}
	files, err := os.ReadDir(s.Home)
	for _, f := range files {
		sources = append(sources, "the file "+f.Name()+" at home")
	}
	return sources, err
}
