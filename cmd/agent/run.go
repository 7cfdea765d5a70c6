package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/sidestep-agent/sidestep/pkg/tokens"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// runOptions are the flags of `agent run`.
type runOptions struct {
	hostFlags
	kernelFlags
	nodeName       string
	kubeconfig     string
	config         string
	configMap      configMapName
	unknown        []string // environment variables that no flag has
	delivery       string
	imdsEndpoint   string
	tenantID       string
	cloud          string
	authorityHost  string
	caFile         string
	tokenRequest   bool
	tokenAudience  string
	tokenProxy     string
	removeTaint    bool
	bootConfig     string
	metricsAddress string
	metricsAuth    bool
	stateDir       string
	instance       string
	memoryLimit    int64
	drainTimeout   time.Duration
	traceEndpoint  string
	logLevel       slog.Level
	logFormat      string
}

// drainTimeout is four times the 30 s that a pod has which is asked to stop
// together with the agent, unless it says more.
const drainTimeout = 2 * time.Minute

// The values of --delivery.
const (
	deliveryPod  = "pod"
	deliveryNode = "node"
)

func addDelivery(flags *pflag.FlagSet, delivery *string) {
	addOneOf(flags, delivery, "delivery", "", "where steered connects go: a listener in each pod, or one on the node", deliveryPod, deliveryNode)
}

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
			o.unknown = unknownVariables(cmd.Root(), env.variables())
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
	if o.nodeName == "" {
		err = errors.Join(err, errors.New("--node-name is required: the name of this node in the cluster"))
	}
	if wrong := checkInstance(o.instance); wrong != nil {
		err = errors.Join(err, wrong)
		o.instance = defaultInstance
	}
	return err
}

func (o *runOptions) add(flags *pflag.FlagSet) {
	o.hostFlags.add(flags)
	addNodeName(flags, &o.nodeName, "required")
	addKubeconfig(flags, &o.kubeconfig)
	addConfig(flags, &o.config)
	flags.Var(&o.configMap, "config-map", "the ConfigMap that --config is mounted from, watched besides the file: a change counts at once")
	addDelivery(flags, &o.delivery)
	o.kernelFlags.add(flags)
	flags.StringVar(&o.imdsEndpoint, "imds-endpoint", "http://"+workload.IMDS.String(), "the node's instance metadata service")
	flags.StringVar(&o.tenantID, "tenant-id", "", "Entra tenant of workloads that name none")
	addOneOf(flags, &o.cloud, "cloud", "", "the cloud whose Entra is asked", string(tokens.AzurePublic), string(tokens.AzureUSGovernment), string(tokens.AzureChina))
	flags.StringVar(&o.authorityHost, "authority-host", "", "Entra's URL, in place of the cloud's")
	flags.StringVar(&o.caFile, "ca-file", "", "PEM file of CAs that Entra's certificate may be of, besides the system's; followed while the agent runs")
	flags.BoolVar(&o.tokenRequest, "token-request", false, "ask the API server for the service account tokens of pods that have none for Entra")
	flags.StringVar(&o.tokenAudience, "token-audience", workload.TokenAudience, "audience of the service account tokens that Entra takes, as the federated credentials have it")
	flags.StringVar(&o.tokenProxy, "token-proxy", "", "URL of a proxy for identity bindings, besides the API server's")
	addRemoveTaint(flags, &o.removeTaint)
	addBootConfig(flags, &o.bootConfig, "")
	flags.StringVar(&o.metricsAddress, "metrics-address", ":9402", "where /metrics, /healthz and /readyz are served")
	flags.BoolVar(&o.metricsAuth, "metrics-auth", false, "ask the API server who may get /metrics, by the bearer token of the request (TokenReview and SubjectAccessReview)")
	addStateDir(flags, &o.stateDir)
	addInstance(flags, &o.instance)
	flags.Int64Var(&o.memoryLimit, "memory-limit", 0, "bytes of memory that the agent's pod may use, for the agent to stay below; 0: no limit is known")
	flags.DurationVar(&o.drainTimeout, "drain-timeout", drainTimeout, "how long an agent that is asked to stop, and has no successor, goes on serving while steered pods run; 60s below its pod's grace period")
	addTraceEndpoint(flags, &o.traceEndpoint)
	flags.TextVar(&o.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
	addOneOf(flags, &o.logFormat, "log-format", "", "form of the log", "json", "text")
}

// run wires the agent and waits until ctx ends and its clients have been asked to leave,
// or one of its tasks fails. wrong is what is wrong with the flags: with it, or
// with anything else that keeps the agent from serving, pods are held.
func run(ctx context.Context, o runOptions, wrong error, logs io.Writer) error {
	log := newLogger(o, logs)
	limitMemory(o.memoryLimit)
	a, err := await(ctx, o, wrong, log)
	if err != nil || a == nil {
		return err
	}
	defer a.close()
	for _, problem := range variableProblems(o.unknown) {
		log.Warn("an environment variable is ignored", "err", problem)
	}
	log.Info("agent starts", "version", version, "node", o.nodeName, "delivery", o.delivery)
	if err := a.run(ctx); err != nil {
		return fmt.Errorf("agent ends: %w", err)
	}
	log.Info("agent ends")
	return nil
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
