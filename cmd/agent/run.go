package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/sidestep-agent/sidestep/cmd/agent/daemon"
	"github.com/sidestep-agent/sidestep/pkg/tokens"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// runOptions are the flags of `agent run`.
type runOptions struct {
	daemon.Options
	memoryLimit int64
	logLevel    slog.Level
	logFormat   string
}

// drainTimeout is four times the 30 s that a pod has which is asked to stop
// together with the agent, unless it says more.
const drainTimeout = 2 * time.Minute

func newRun(env environment) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the agent (the DaemonSet's command)",
		Long: "Run the agent until it is asked to stop. Each flag may also be given as an\n" +
			"environment variable: SIDESTEP_NODE_NAME for --node-name, and so on.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			wrong := o.complete(cmd.Flags(), env)
			o.Problems = variableProblems(unknownVariables(cmd.Root(), env.variables()))
			return run(cmd.Context(), o, wrong, env.stderr)
		},
	}
	o.add(cmd.Flags())
	// What is wrong with a flag must not keep the programs from being attached.
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, wrong error) error {
		return run(cmd.Context(), o, errors.Join(wrong, o.complete(cmd.Flags(), env)), env.stderr)
	})
	return cmd
}

// complete takes from the environment what the command line does not say, and
// returns what is wrong with the flags. The instance is usable in any case.
func (o *runOptions) complete(flags *pflag.FlagSet, env environment) error {
	err := fromEnvironment(flags, env.getenv)
	if o.NodeName == "" {
		err = errors.Join(err, errors.New("--node-name is required: the name of this node in the cluster"))
	}
	if wrong := checkInstance(o.Instance); wrong != nil {
		err = errors.Join(err, wrong)
		o.Instance = defaultInstance
	}
	return err
}

// runFlags returns the flags of `agent run`, which are parsed into the options.
func runFlags(o *runOptions) *pflag.FlagSet {
	flags := pflag.NewFlagSet("run", pflag.ContinueOnError)
	o.add(flags)
	return flags
}

func (o *runOptions) add(flags *pflag.FlagSet) {
	o.Version = version
	addHost(flags, &o.Host)
	addNodeName(flags, &o.NodeName, "required")
	addKubeconfig(flags, &o.Kubeconfig)
	addConfig(flags, &o.Config)
	flags.Var((*configMapName)(&o.ConfigMap), "config-map", "the ConfigMap that --config is mounted from, watched besides the file: a change counts at once")
	addDelivery(flags, &o.Delivery)
	addPrograms(flags, &o.Programs)
	flags.StringVar(&o.IMDSEndpoint, "imds-endpoint", "http://"+workload.IMDS.String(), "the node's instance metadata service")
	flags.StringVar(&o.TenantID, "tenant-id", "", "Entra tenant of workloads that name none")
	addOneOf(flags, &o.Cloud, "cloud", "", "the cloud whose Entra is asked", string(tokens.AzurePublic), string(tokens.AzureUSGovernment), string(tokens.AzureChina))
	flags.StringVar(&o.AuthorityHost, "authority-host", "", "Entra's URL, in place of the cloud's")
	flags.StringVar(&o.CAFile, "ca-file", "", "PEM file of CAs that Entra's certificate may be of, besides the system's; followed while the agent runs")
	flags.BoolVar(&o.TokenRequest, "token-request", false, "ask the API server for the service account tokens of pods that have none for Entra")
	flags.StringVar(&o.TokenAudience, "token-audience", workload.TokenAudience, "audience of the service account tokens that Entra takes, as the federated credentials have it")
	flags.StringVar(&o.TokenProxy, "token-proxy", "", "URL of a proxy for identity bindings, besides the API server's")
	addRemoveTaint(flags, &o.RemoveTaint)
	addBootConfig(flags, &o.BootConfig, "")
	flags.StringVar(&o.MetricsAddress, "metrics-address", ":9402", "where /metrics, /healthz and /readyz are served")
	flags.BoolVar(&o.MetricsAuth, "metrics-auth", false, "ask the API server who may get /metrics, by the bearer token of the request (TokenReview and SubjectAccessReview)")
	addStateDir(flags, &o.StateDir)
	addInstance(flags, &o.Instance)
	flags.Int64Var(&o.memoryLimit, "memory-limit", 0, "bytes of memory that the agent's pod may use, for the agent to stay below; 0: no limit is known")
	flags.DurationVar(&o.DrainTimeout, "drain-timeout", drainTimeout, "how long an agent that is asked to stop, and has no successor, goes on serving while steered pods run; 60s below its pod's grace period")
	flags.StringVar(&o.TraceEndpoint, "trace-endpoint", "", "URL of an OpenTelemetry collector that gets a span for each exchange, OTLP over HTTP (default: none does)")
	flags.TextVar(&o.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
	addOneOf(flags, &o.logFormat, "log-format", "", "form of the log", "json", "text")
}

// run runs the agent; wrong is what is wrong with the flags.
func run(ctx context.Context, o runOptions, wrong error, logs io.Writer) error {
	limitMemory(o.memoryLimit)
	return daemon.Run(ctx, o.Options, wrong, newLogger(o, logs))
}

// limitMemory has the garbage collector work harder rather than let this process
// come near the limit of its pod, at which the kernel would kill it. A quarter
// is left for what counts there too: maps, sockets' buffers, the probe's
// process.
func limitMemory(pod int64) {
	if pod > 0 {
		debug.SetMemoryLimit(pod / 4 * 3)
	}
}

func newLogger(o runOptions, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: o.logLevel}
	var handler slog.Handler = slog.NewJSONHandler(w, options)
	if o.logFormat == "text" {
		handler = slog.NewTextHandler(w, options)
	}
	log := slog.New(handler)
	klog.SetSlogLogger(log.With("component", "client-go"))
	return log
}
