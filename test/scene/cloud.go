package scene

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"slices"
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
	issuerAddress = "10.63.0.1"
	entraAddress  = "10.63.0.2"
	vaultAddress  = "10.63.0.3"
	apiAddress    = "10.63.0.5" // the one before is the clients' (test/clients)

	// IssuerURL is where the cluster's keys are, which a federation file must
	// name as its issuer. Like a real cluster's it is not the API server.
	IssuerURL = "https://" + issuerAddress
	// EntraURL is the Entra stand-in.
	EntraURL = "https://" + entraAddress
	// VaultURL is the vault stand-in.
	VaultURL = "https://" + vaultAddress
)

const apiToken = "of-the-scene's-agent"

// Cloud is what exists only in Azure, and the Kubernetes API: stand-ins within
// this process, each with the log that it keeps.
type Cloud struct {
	Federation federation.File
	API        *kubeapi.Server
	Entra      *entra.Server
	Logs       struct{ API, Entra, IMDS, Vault Record }

	authority *pki.Authority
	secure    *tls.Config
	servers   map[string]*http.Server // by address
}

// openCloud starts the stand-ins. Each listens when it returns.
func openCloud(ctx context.Context, o Options) (_ *Cloud, err error) {
	c := &Cloud{Federation: o.Federation, servers: make(map[string]*http.Server)}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if c.authority, err = pki.New(); err != nil {
		return nil, err
	}
	handlers, err := c.handlers(o)
	if err != nil {
		return nil, err
	}
	maps.Copy(handlers, o.Extra)
	addresses := slices.Collect(maps.Keys(handlers))
	if c.secure, err = c.certificate(slices.Concat(addresses, o.Names)...); err != nil {
		return nil, err
	}
	for address, handler := range handlers {
		if err := c.serve(ctx, address, handler, o.WrapIMDS); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// handlers returns the stand-ins by the addresses at which they are served.
func (c *Cloud) handlers(o Options) (map[string]http.Handler, error) {
	directory, err := federation.Fixed(c.Federation)
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
	c.API, err = kubeapi.New(kubeapi.Options{
		Issuer: IssuerURL, Key: clusterKey, Token: apiToken, Log: &c.Logs.API,
	})
	if err != nil {
		return nil, err
	}
	c.Entra, err = entra.New(entra.Options{
		Federation: directory, Key: entraKey, Issuers: trusting, Log: &c.Logs.Entra, RefreshIn: o.RefreshIn,
	})
	if err != nil {
		return nil, err
	}
	secrets, err := vault.New(vault.Options{
		Name: o.VaultName, Federation: directory, Authority: EntraURL, Keys: trusting, Log: &c.Logs.Vault,
	})
	if err != nil {
		return nil, err
	}
	metadata, err := imds.New(imds.Options{Federation: directory, Signer: entraKey, Log: &c.Logs.IMDS})
	if err != nil {
		return nil, err
	}
	return map[string]http.Handler{
		issuerAddress: c.API, apiAddress: c.API,
		entraAddress: c.Entra, vaultAddress: secrets, lab.IMDS: metadata,
	}, nil
}

// Issue returns a certificate of the stand-ins' CA, for a server of the caller's
// at hosts.
func (c *Cloud) Issue(hosts ...string) (pki.Certificate, error) { return c.authority.Issue(hosts...) }

func (c *Cloud) certificate(hosts ...string) (*tls.Config, error) {
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
func (c *Cloud) serve(ctx context.Context, address string, handler http.Handler, wrapIMDS func(net.Listener) net.Listener) error {
	port := "443"
	if address == lab.IMDS {
		port = "80" // and the address is there since lab.NewNode
	} else if err := addAddress(address); err != nil {
		return err
	}
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp4", net.JoinHostPort(address, port))
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second,
		// It would tell of every connection that a killed agent leaves behind.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	switch {
	case address != lab.IMDS:
		l = tls.NewListener(l, c.secure)
	case wrapIMDS != nil:
		l = wrapIMDS(l)
	}
	c.servers[address] = server
	go func() { _ = server.Serve(l) }() // until close
	return nil
}

// StopAPI has nothing answer at the API server's address until StartAPI, and
// ends the connections to it. The issuer answers on, and what is sent to the
// API meanwhile is there when it is back.
func (c *Cloud) StopAPI() error { return c.servers[apiAddress].Close() }

// StartAPI has the API server answer again.
func (c *Cloud) StartAPI(ctx context.Context) error {
	return c.serve(ctx, apiAddress, c.API, nil)
}

func (c *Cloud) close() error {
	var errs []error
	for _, s := range c.servers {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// kubeconfig returns the file by which the agent finds the API stand-in.
func (c *Cloud) kubeconfig() []byte {
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: lab
contexts: [{name: lab, context: {cluster: lab, user: agent}}]
clusters: [{name: lab, cluster: {server: %s, certificate-authority-data: %s}}]
users: [{name: agent, user: {token: %q}}]
`, "https://"+apiAddress, base64.StdEncoding.EncodeToString(c.authority.PEM()), apiToken)
}

// addAddress gives this namespace one more address of its own.
func addAddress(address string) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	ip := &net.IPNet{IP: net.ParseIP(address).To4(), Mask: net.CIDRMask(32, 32)}
	if err := netlink.AddrReplace(lo, &netlink.Addr{IPNet: ip}); err != nil {
		return fmt.Errorf("put %s on the loopback link: %w", address, err)
	}
	return nil
}
