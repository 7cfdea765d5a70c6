package main

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/standins/entra"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
	"github.com/sidestep-agent/sidestep/test/standins/imds"
	"github.com/sidestep-agent/sidestep/test/standins/jwks"
	"github.com/sidestep-agent/sidestep/test/standins/kubeapi"
	"github.com/sidestep-agent/sidestep/test/standins/pki"
	"github.com/sidestep-agent/sidestep/test/standins/vault"
)

// Where the stand-ins are reached. The addresses are the lab node's; pods come
// to them by their default route.
const (
	apiAddress   = "10.63.0.1"
	entraAddress = "10.63.0.2"
	vaultAddress = "10.63.0.3"

	apiURL   = "https://" + apiAddress
	entraURL = "https://" + entraAddress
	vaultURL = "https://" + vaultAddress
)

const (
	tenantID  = "3f1c7c1e-6a0b-4d52-9d4e-8f2b5a7c9e01"
	vaultName = "demo"
	apiToken  = "of-the-demo's-agent"
)

// cloud is what exists only in Azure, and the Kubernetes API: stand-ins within
// this process, each with the log that it keeps.
type cloud struct {
	authority *pki.Authority
	identity  federation.File
	names     names
	api       *kubeapi.Server
	logs      struct{ entra, imds, vault record }
	servers   []*http.Server
}

// openCloud starts the stand-ins. Each listens when it returns.
func openCloud(ctx context.Context) (_ *cloud, err error) {
	c := &cloud{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if c.authority, err = pki.New(); err != nil {
		return nil, err
	}
	if c.identity, err = federation.Parse(federationYAML); err != nil {
		return nil, err
	}
	c.names = namesOf(c.identity)
	handlers, err := c.handlers()
	if err != nil {
		return nil, err
	}
	if err := addAddresses(apiAddress, entraAddress, vaultAddress); err != nil {
		return nil, err
	}
	certificate, err := c.certificate(apiAddress, entraAddress, vaultAddress)
	if err != nil {
		return nil, err
	}
	for address, handler := range handlers {
		if err := c.serve(ctx, address, handler, certificate); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// handlers returns the stand-ins by the addresses at which they are served.
func (c *cloud) handlers() (map[string]http.Handler, error) {
	directory, err := federation.Fixed(c.identity)
	if err != nil {
		return nil, err
	}
	clusterKey, errCluster := jwks.NewKey()
	entraKey, errEntra := jwks.NewKey()
	if err := errors.Join(errCluster, errEntra); err != nil {
		return nil, err
	}
	trusting := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: c.authority.Pool(), MinVersion: tls.VersionTLS12},
	}}
	c.api, err = kubeapi.New(kubeapi.Options{Issuer: apiURL, Key: clusterKey, Token: apiToken})
	if err != nil {
		return nil, err
	}
	login, err := entra.New(entra.Options{
		Federation: directory, Key: entraKey, Issuers: trusting, Log: &c.logs.entra,
	})
	if err != nil {
		return nil, err
	}
	secrets, err := vault.New(vault.Options{
		Name: vaultName, Federation: directory, Authority: entraURL, Keys: trusting, Log: &c.logs.vault,
	})
	if err != nil {
		return nil, err
	}
	metadata, err := imds.New(imds.Options{Federation: directory, Signer: entraKey, Log: &c.logs.imds})
	if err != nil {
		return nil, err
	}
	return map[string]http.Handler{
		apiAddress + ":443": c.api, entraAddress + ":443": login, vaultAddress + ":443": secrets,
		lab.IMDS + ":80": metadata,
	}, nil
}

func (c *cloud) certificate(hosts ...string) (*tls.Config, error) {
	issued, err := c.authority.Issue(hosts...)
	if err != nil {
		return nil, err
	}
	pair, err := issued.TLS()
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// serve serves a handler at an address, over TLS but for the metadata service.
func (c *cloud) serve(ctx context.Context, address string, handler http.Handler, secure *tls.Config) error {
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp4", address)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second,
		// It would tell of every connection that the killed agent leaves behind.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	if address != lab.IMDS+":80" {
		l = tls.NewListener(l, secure)
	}
	c.servers = append(c.servers, server)
	go func() { _ = server.Serve(l) }() // until close
	return nil
}

func (c *cloud) close() error {
	var errs []error
	for _, s := range c.servers {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// kubeconfig returns the file by which the agent finds the API stand-in.
func (c *cloud) kubeconfig() []byte {
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: demo
contexts: [{name: demo, context: {cluster: demo, user: agent}}]
clusters: [{name: demo, cluster: {server: %s, certificate-authority-data: %s}}]
users: [{name: agent, user: {token: %q}}]
`, apiURL, base64.StdEncoding.EncodeToString(c.authority.PEM()), apiToken)
}

// addAddresses gives this namespace further addresses of its own.
func addAddresses(addresses ...string) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, a := range addresses {
		ip := &net.IPNet{IP: net.ParseIP(a).To4(), Mask: net.CIDRMask(32, 32)}
		if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: ip}); err != nil {
			return fmt.Errorf("put %s on the loopback link: %w", a, err)
		}
	}
	return nil
}
