package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1 // no token, or the vault refused
	exitUsage  = 2 // wrong flags, or another road to a token is open
)

// config is what the flags say.
type config struct {
	vault      string
	secret     string
	op         string
	clientID   string
	resourceID string
	tokenOnly  bool
	timeout    time.Duration
	retries    int
}

func main() {
	os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

func run(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	c, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	if err == nil {
		err = onlyIMDS(getenv)
	}
	if err != nil {
		fmt.Fprintln(stderr, "vaultclient:", err)
		return exitUsage
	}
	credential, err := azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{
		ClientOptions: c.clientOptions(), ID: c.identity(),
	})
	if err != nil {
		fmt.Fprintln(stderr, "vaultclient:", err)
		return exitUsage
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	r := use(ctx, c, credential)
	if err := json.NewEncoder(stdout).Encode(r); err != nil {
		fmt.Fprintln(stderr, "vaultclient:", err)
		return exitFailed
	}
	if r.Error != "" {
		return exitFailed
	}
	return exitOK
}

func parse(args []string, stderr io.Writer) (config, error) {
	var c config
	flags := flag.NewFlagSet("vaultclient", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&c.vault, "vault", "", "the vault's `URL`")
	flags.StringVar(&c.secret, "secret", "", "the secret's `name`; roundtrip puts something unique behind it")
	flags.StringVar(&c.op, "op", "roundtrip", "set, get, delete, or roundtrip: all three")
	flags.StringVar(&c.clientID, "client-id", "", "ask for the identity with this client `id`")
	flags.StringVar(&c.resourceID, "resource-id", "", "ask for the identity with this ARM `id`")
	flags.BoolVar(&c.tokenOnly, "token-only", false, "get a token, and leave the vault alone")
	flags.DurationVar(&c.timeout, "timeout", 10*time.Second, "limit for all of it")
	flags.IntVar(&c.retries, "retries", 0, "how often the SDK may try a request again")
	if err := flags.Parse(args); err != nil {
		return config{}, err
	}
	return c, c.validate(flags.Args())
}

func (c config) validate(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unknown argument %q", rest[0])
	case c.clientID != "" && c.resourceID != "":
		return errors.New("-client-id and -resource-id exclude each other")
	case c.timeout <= 0 || c.retries < 0:
		return errors.New("-timeout must be above 0 and -retries not below")
	case c.tokenOnly:
		return nil
	case c.vault == "" || c.secret == "":
		return errors.New("-vault and -secret are needed, or -token-only")
	}
	if _, known := operations[c.op]; !known {
		return fmt.Errorf("unknown operation %q", c.op)
	}
	return nil
}

// identity returns which identity to ask for; nil leaves it to IMDS.
func (c config) identity() azidentity.ManagedIDKind {
	switch {
	case c.clientID != "":
		return azidentity.ClientID(c.clientID)
	case c.resourceID != "":
		return azidentity.ResourceID(c.resourceID)
	}
	return nil
}

func (c config) clientOptions() azcore.ClientOptions {
	retries := c.retries
	if retries == 0 {
		retries = -1 // the SDK takes 0 for its default
	}
	return azcore.ClientOptions{Retry: policy.RetryOptions{MaxRetries: int32(retries)}}
}
