package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sidestep-agent/sidestep/test/standins/entra"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
	"github.com/sidestep-agent/sidestep/test/standins/imds"
	"github.com/sidestep-agent/sidestep/test/standins/jwks"
	"github.com/sidestep-agent/sidestep/test/standins/pki"
	"github.com/sidestep-agent/sidestep/test/standins/vault"
)

const (
	fetchLimit    = 10 * time.Second
	headerLimit   = 10 * time.Second
	shutdownLimit = 2 * time.Second
)

// servers are the three stand-ins, listening.
type servers struct {
	entra, imds, vault net.Listener
	handlers           map[net.Listener]http.Handler
	logs               []*os.File
	certificate        tls.Certificate
	fault              *faultFile
}

// open makes the stand-ins and their listeners. What it opened is closed when
// it fails, and else when serve returns.
func open(ctx context.Context, c config) (_ *servers, err error) {
	s := &servers{handlers: map[net.Listener]http.Handler{}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	ca, err := pki.Open(c.state)
	if err != nil {
		return nil, err
	}
	if err := s.listen(ctx, c, ca); err != nil {
		return nil, err
	}
	return s, s.build(c, ca)
}

func (s *servers) listen(ctx context.Context, c config, ca *pki.Authority) error {
	issued, err := ca.Issue(c.hosts...)
	if err != nil {
		return err
	}
	pair, err := issued.TLS()
	if err != nil {
		return err
	}
	s.certificate = pair
	secure := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	var plain net.ListenConfig
	if s.entra, err = plain.Listen(ctx, "tcp", c.entraListen); err != nil {
		return fmt.Errorf("listen for Entra: %w", err)
	}
	if s.vault, err = plain.Listen(ctx, "tcp", c.vaultListen); err != nil {
		return fmt.Errorf("listen for the vault: %w", err)
	}
	s.vault = tls.NewListener(s.vault, secure)
	if s.imds, err = plain.Listen(ctx, "tcp", c.imdsListen); err != nil {
		return fmt.Errorf("listen for IMDS: %w", err)
	}
	return nil
}

func (s *servers) build(c config, ca *pki.Authority) error {
	directory, err := federation.Open(c.federation)
	if err != nil {
		return err
	}
	key, err := jwks.OpenKey(filepath.Join(c.state, "entra.key"))
	if err != nil {
		return err
	}
	logs, err := s.openLogs(c.logs, "entra.jsonl", "imds.jsonl", "vault.jsonl")
	if err != nil {
		return err
	}
	issuers, err := issuerClient(c)
	if err != nil {
		return err
	}
	entraServer, err := entra.New(entra.Options{
		Federation: directory, Key: key, Issuers: issuers, Log: logs[0], Lifetime: c.lifetime, Delay: c.delay,
	})
	if err != nil {
		return err
	}
	s.entra = tls.NewListener(s.entra, entraServer.TLS(s.certificate))
	s.fault = &faultFile{path: c.entraFault, set: entraServer.SetFault}
	imdsServer, err := imds.New(imds.Options{Federation: directory, Signer: key, Log: logs[1]})
	if err != nil {
		return err
	}
	authority := c.authority
	if authority == "" {
		authority = "https://" + s.entra.Addr().String()
	}
	// The authority's name need not lead anywhere from here: it is dialled at
	// its own listener.
	vaultServer, err := vault.New(vault.Options{
		Name: c.vaultName, Federation: directory, Authority: authority,
		Keys: client(ca.Pool(), s.entra.Addr().String()), Log: logs[2],
	})
	if err != nil {
		return err
	}
	s.handlers[s.entra], s.handlers[s.imds], s.handlers[s.vault] = entraServer, imdsServer, vaultServer
	return nil
}

func (s *servers) openLogs(dir string, names ...string) ([]*os.File, error) {
	for _, name := range names {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, fmt.Errorf("open a log: %w", err)
		}
		s.logs = append(s.logs, f)
	}
	return s.logs, nil
}

func issuerClient(c config) (*http.Client, error) {
	var pool *x509.CertPool
	if c.issuerCA != "" {
		text, err := os.ReadFile(c.issuerCA)
		if err != nil {
			return nil, fmt.Errorf("issuers' CA: %w", err)
		}
		pool = x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("issuers' CA: %s has no certificate", c.issuerCA)
		}
	}
	return client(pool, c.issuerConnect), nil
}

// client trusts pool (nil: the system's CAs) and dials connect, if it is set,
// for every host. It uses no proxy.
func client(pool *x509.CertPool, connect string) *http.Client {
	dialer := &net.Dialer{}
	return &http.Client{
		Timeout: fetchLimit,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				if connect != "" {
					address = connect
				}
				return dialer.DialContext(ctx, network, address)
			},
		},
	}
}

// serve answers until ctx ends or a server fails, and closes everything.
func (s *servers) serve(ctx context.Context) error {
	defer s.close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { s.fault.follow(ctx); return nil })
	for listener, handler := range s.handlers {
		server := &http.Server{Handler: handler, ReadHeaderTimeout: headerLimit}
		group.Go(func() error {
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		group.Go(func() error {
			<-ctx.Done()
			limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownLimit)
			defer cancel()
			if server.Shutdown(limited) != nil {
				return server.Close()
			}
			return nil
		})
	}
	return group.Wait()
}

func (s *servers) close() {
	for _, l := range []net.Listener{s.entra, s.imds, s.vault} {
		if l != nil {
			_ = l.Close()
		}
	}
	for _, f := range s.logs {
		_ = f.Close()
	}
}
