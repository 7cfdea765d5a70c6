package broker

import (
	"context"
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/broker/imdspath"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Attester proves who is at the other end of a connection.
type Attester interface {
	// Inspect returns an accepted connection as the kernel's records name it,
	// also with an error, which means that it cannot be attested.
	Inspect(c net.Conn, netnsCookie uint64) (workload.Connection, error)
	// Attest returns the caller behind an inspected connection and the verdict
	// on it, without blocking: Unknown where its pod is not known yet. An error
	// means that nothing proves who is calling.
	Attest(c workload.Connection) (workload.Caller, workload.Verdict, error)
	// Await waits until the verdict on a caller is not Unknown any more, and
	// returns it, or until ctx ends. An error with a method Unknown() bool that
	// returns true says that the pod is still not known and the caller may try
	// again.
	Await(ctx context.Context, c workload.Connection, caller workload.Caller) (workload.Verdict, error)
	// Current returns the caller's workload and the decision about it as
	// they are now, without blocking; an error when the pod is gone, or one
	// with Unknown() as above.
	Current(c workload.Caller) (workload.Workload, workload.Decision, error)
}

// Tokens issues access tokens to workloads.
type Tokens interface {
	// Token returns an access token of the workload for the request. An error
	// is a *workload.TokenError or ctx's own.
	Token(ctx context.Context, w workload.Workload, r workload.TokenRequest) (workload.Token, error)
	// Cached returns what Token would, if it need not wait for it; false where
	// Token is to be asked.
	Cached(w workload.Workload, r workload.TokenRequest) (workload.Token, bool)
}

// Options is what a Server is made from. Every field but TenantID is needed.
type Options struct {
	Attester Attester
	Tokens   Tokens
	Paths    Paths
	Settings Settings
	// IMDSEndpoint is the URL of the node's IMDS: http, a host and nothing
	// more, as in http://169.254.169.254.
	IMDSEndpoint string
	// TenantID is the tenant of workloads that name none.
	TenantID   string
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Clock      clock.WithTicker
}

// Settings is the part of the agent's configuration that the broker obeys.
// It may be replaced while the Server runs.
type Settings struct {
	Relay  RelaySettings
	Limits Limits
}

// RelaySettings says what is relayed to the node's IMDS.
type RelaySettings = imdspath.Rules

// Limits is what each pod may ask for. Both are at least 1.
type Limits struct {
	RequestsPerSecond int
	Concurrent        int
}
