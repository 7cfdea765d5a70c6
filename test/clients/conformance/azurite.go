package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/sidestep-agent/sidestep/test/scene"
)

// Where blobs are: Azurite has the account's name in its paths.
const (
	blobPort = "10000"
	blobURL  = "https://" + armAddress + ":" + blobPort + "/devstoreaccount1"
)

// azurite is Microsoft's storage emulator. It takes tokens over TLS alone, and
// checks their times, issuer and audience, but no signature and no rights: whose
// token it was, the suite reads from the client's own and from Entra.
type azurite struct {
	cmd    *exec.Cmd
	ended  chan struct{}
	output bytes.Buffer // read it once ended is closed
}

// startAzurite starts the emulator on the node, and returns when it listens there
// and behind the storage account's name.
func startAzurite(ctx context.Context, s *scene.Scene, front *azure, clients string) (*azurite, error) {
	const patience, pause = 3 * time.Minute, 100 * time.Millisecond
	dir, err := os.MkdirTemp(s.Home, "azurite")
	if err != nil {
		return nil, err
	}
	certificate, err := s.Cloud.Issue(armAddress)
	if err != nil {
		return nil, err
	}
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	if err := errors.Join(os.WriteFile(cert, certificate.CertificatePEM, 0o644), os.WriteFile(key, certificate.KeyPEM, 0o600)); err != nil {
		return nil, err
	}
	if err := front.forward(s.CA); err != nil {
		return nil, err
	}
	a := &azurite{ended: make(chan struct{})}
	a.cmd = exec.CommandContext(ctx, node(clients),
		filepath.Join(clients, "npm/azurite-3.37.0/node_modules/azurite/dist/src/blob/main.js"),
		"--blobHost", armAddress, "--blobPort", blobPort, "--cert", cert, "--key", key, "--oauth", "basic",
		"--location", dir, "--skipApiVersionCheck", "--disableTelemetry")
	a.cmd.Env, a.cmd.Dir = []string{"PATH=/usr/bin:/bin", "HOME=" + dir}, dir
	a.cmd.Stdout, a.cmd.Stderr = &a.output, &a.output
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start azurite: %w", err)
	}
	go func() {
		_ = a.cmd.Wait() // its output says why
		close(a.ended)
	}()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		conn, err := (&net.Dialer{Timeout: pause}).DialContext(ctx, "tcp", net.JoinHostPort(armAddress, blobPort))
		if err == nil {
			return a, conn.Close()
		}
		select {
		case <-a.ended:
			return nil, fmt.Errorf("azurite has ended: %s", &a.output)
		case <-time.After(pause):
		}
	}
	a.stop()
	return nil, fmt.Errorf("azurite does not listen: %s", &a.output)
}

func (a *azurite) stop() {
	_ = a.cmd.Process.Kill() // it may have ended
	<-a.ended
}
