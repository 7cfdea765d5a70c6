// Command tokenproxy runs the stand-in for the proxy of AKS identity bindings,
// for the node rig. It signs as the rig's Entra does and is certified by its
// CA: both are in the directory that cmd/standins keeps them in.
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sidestep-agent/sidestep/test/standins/entra"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
	"github.com/sidestep-agent/sidestep/test/standins/jwks"
	"github.com/sidestep-agent/sidestep/test/standins/pki"
	"github.com/sidestep-agent/sidestep/test/standins/tokenproxy"
)

const timeLimit = 10 * time.Second

type config struct {
	federation, state, log, listen, sni, authority, issuerConnect string
}

func main() {
	var c config
	flag.StringVar(&c.federation, "federation", "", "federation `file`: who may be whom through the proxy")
	flag.StringVar(&c.state, "state", "", "`directory` with ca.crt, ca.key and entra.key")
	flag.StringVar(&c.log, "log", "", "log `file`")
	flag.StringVar(&c.listen, "listen", "", "`address` to listen at")
	flag.StringVar(&c.sni, "sni", "", "`name` that clients ask for in TLS")
	flag.StringVar(&c.authority, "authority", "login.microsoftonline.com", "`host` that clients believe to talk to")
	flag.StringVar(&c.issuerConnect, "issuer-connect", "", "`address` to dial for every issuer, whatever host its URL names")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, c)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "tokenproxy:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, c config) error {
	ca, err := pki.Open(c.state)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(c.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	handler, err := c.handler(ca, log)
	if err != nil {
		return err
	}
	issued, err := ca.Issue(c.sni)
	if err != nil {
		return err
	}
	pair, err := issued.TLS()
	if err != nil {
		return err
	}
	var plain net.ListenConfig
	listener, err := plain.Listen(ctx, "tcp", c.listen)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: timeLimit,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
	}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.ServeTLS(listener, "", ""); ctx.Err() == nil {
		return err
	}
	return nil
}

func (c config) handler(ca *pki.Authority, log io.Writer) (http.Handler, error) {
	directory, err := federation.Open(c.federation)
	if err != nil {
		return nil, err
	}
	key, err := jwks.OpenKey(filepath.Join(c.state, "entra.key"))
	if err != nil {
		return nil, err
	}
	decides, err := entra.New(entra.Options{Federation: directory, Key: key, Issuers: c.issuers(ca)})
	if err != nil {
		return nil, err
	}
	return tokenproxy.New(tokenproxy.Options{Entra: decides, SNI: c.sni, Authority: c.authority, Log: log})
}

// issuers fetches the keys of clusters.
func (c config) issuers(ca *pki.Authority) *http.Client {
	dialer := &net.Dialer{}
	return &http.Client{Timeout: timeLimit, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, c.issuerConnect)
		},
	}}
}
