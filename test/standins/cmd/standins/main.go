// Command standins runs the stand-ins for Entra ID, the VM's instance metadata
// service and a Key Vault in one process, for the node rig. It keeps its CA
// and signing key in a directory, so that it can be restarted under a run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/sidestep-agent/sidestep/test/standins/entra"
)

// config is what the flags say.
type config struct {
	federation    string
	state         string
	logs          string
	entraListen   string
	entraFault    string
	imdsListen    string
	vaultListen   string
	vaultName     string
	authority     string
	hosts         []string
	issuerCA      string
	issuerConnect string
	lifetime      time.Duration
	delay         time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "standins:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, stderr io.Writer) error {
	c, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	s, err := open(ctx, c)
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "standins: Entra at %s, IMDS at %s, vault at %s\n", s.entra.Addr(), s.imds.Addr(), s.vault.Addr())
	return s.serve(ctx)
}

func parse(args []string, stderr io.Writer) (config, error) {
	var c config
	var hosts string
	flags := flag.NewFlagSet("standins", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&c.federation, "federation", "", "federation `file`; read again at each request")
	flags.StringVar(&c.state, "state", "", "`directory` for ca.crt, ca.key and entra.key; made if they are not there")
	flags.StringVar(&c.logs, "log-dir", "", "`directory` for entra.jsonl, imds.jsonl and vault.jsonl")
	flags.StringVar(&c.entraListen, "entra-listen", "127.0.0.1:8443", "`address` of the Entra stand-in (TLS)")
	flags.StringVar(&c.entraFault, "entra-fault", "", "`file` that says in JSON how the Entra stand-in fails, e.g. {\"status\":429}; followed while it runs; missing: not at all")
	flags.StringVar(&c.imdsListen, "imds-listen", "127.0.0.1:8080", "`address` of the IMDS stand-in (plain HTTP)")
	flags.StringVar(&c.vaultListen, "vault-listen", "127.0.0.1:9443", "`address` of the vault stand-in (TLS)")
	flags.StringVar(&c.vaultName, "vault-name", "tutorial", "the vault's `name` in the federation file")
	flags.StringVar(&c.authority, "authority", "", "Entra's `URL` in the vault's challenge (default: https:// and the address)")
	flags.StringVar(&hosts, "hosts", "", "`names` and IP addresses for the certificates, beside 127.0.0.1 and localhost; comma between")
	flags.StringVar(&c.issuerCA, "issuer-ca", "", "PEM `file` with the CA of the clusters' issuers (default: the system's)")
	flags.StringVar(&c.issuerConnect, "issuer-connect", "", "`address` to dial for every issuer, whatever host its URL names")
	flags.DurationVar(&c.lifetime, "token-lifetime", entra.DefaultLifetime, "lifetime of Entra's tokens")
	flags.DurationVar(&c.delay, "entra-delay", 0, "wait of Entra's token endpoint before each answer")
	if err := flags.Parse(args); err != nil {
		return config{}, err
	}
	if c.federation == "" || c.state == "" || c.logs == "" {
		return config{}, errors.New("-federation, -state and -log-dir are needed")
	}
	if hosts != "" {
		c.hosts = strings.Split(hosts, ",")
	}
	return c, nil
}
