package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/client-go/kubernetes"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/attest"
	"github.com/sidestep-agent/sidestep/pkg/broker"
	"github.com/sidestep-agent/sidestep/pkg/cgroups"
	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/config/configmap"
	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/handover"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/metricsserver"
	"github.com/sidestep-agent/sidestep/pkg/podcache"
	"github.com/sidestep-agent/sidestep/pkg/snapshot"
	"github.com/sidestep-agent/sidestep/pkg/tokens"
	"github.com/sidestep-agent/sidestep/pkg/tracing"
)

// agent has the parts of a running agent. This file makes them and gives each
// of them those that it needs; none of them knows another's package. What it does with
// the programs is in kernel.go, when it serves in life.go.
type agent struct {
	options  Options
	self     uint64 // the cgroup of its own pod; 0: it runs in none
	log      *slog.Logger
	registry *prometheus.Registry
	since    time.Time

	client   kubernetes.Interface
	watcher  *config.Watcher
	events   *events
	pods     *podcache.Cache
	tree     *cgroups.Tree
	hooks    *intercept.Hooks
	line     *secondLine
	fresh    bool // no agent has configured the programs before
	node     *delivery.Node
	delivery *delivery.Reconciler
	tokens   *tokens.Engine
	broker   *broker.Server
	traces   *tracing.Tracing // nil: none are made
	settings *settings

	guards       *guardWatch
	boot         *bootConfig
	upkeep       *upkeep
	metrics      *endpoint
	announcement *announcement

	attached   chan struct{} // closed once the programs are attached
	attachOnce sync.Once

	lock     *handover.Lock // nil: another agent's, or given away
	tookOver chan struct{}  // closed once listeners may be this agent's
	retired  chan struct{}  // closed once a successor serves

	rootCgroup sync.Once // it has been logged
}

// newAttached attaches the programs that keep pods from the node's identity;
// makeRest makes what serves them. On an error nothing is left open.
func newAttached(o Options, log *slog.Logger) (*agent, error) {
	a := &agent{
		options: o, log: log, since: time.Now(),
		registry: newRegistry(o.Version), attached: make(chan struct{}),
		tookOver: make(chan struct{}), retired: make(chan struct{}),
	}
	if err := inTurn(a.openTree, a.acquire, a.loadKernel, a.attachFirst); err != nil {
		a.close()
		return nil, err
	}
	a.line.decide(a.fresh)
	return a, nil
}

// makeRest makes the other parts in the order in which they need each other.
func (a *agent) makeRest() error {
	return inTurn(a.makeSources, a.makeDelivery, a.makeTokens, a.makeServing, a.makeUpkeep)
}

// inTurn takes the steps up to the first that fails.
func inTurn(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// newRegistry returns one with what is known of the program itself.
func newRegistry(version string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "sidestep_build_info", Help: "Always 1; the label says what runs.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	r.MustRegister(build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// makeSources makes what the agent learns from: its configuration and the API
// server.
func (a *agent) makeSources() (err error) {
	client, custom, err := NewClients(a.options.Kubeconfig, a.options.Version)
	if err != nil {
		return err
	}
	a.client = client
	a.watcher, err = config.NewWatcher(config.WatcherOptions{
		Path: a.options.Config, StateDir: a.options.StateDir, Source: a.configSource(),
		Registerer: a.registry, Log: a.log, Clock: clock.RealClock{},
	})
	if err != nil {
		return err
	}
	a.events = newEvents(client, a.options.NodeName, a.registry)
	a.line.events = a.events
	a.line.apply(a.watcher.Initial())
	a.pods, err = podcache.New(podcache.Options{
		Client: client, Dynamic: custom, NodeName: a.options.NodeName, Config: a.watcher.Initial(),
		Registerer: a.registry, Log: a.log, Clock: clock.RealClock{}, TokenAudience: a.options.TokenAudience,
	})
	return err
}

// configSource returns the ConfigMap that the configuration file is mounted from,
// nil if none is named.
func (a *agent) configSource() config.Source {
	if a.options.ConfigMap.Name == "" {
		return nil
	}
	return configmap.ConfigMap{
		Client: a.client, Namespace: a.options.ConfigMap.Namespace, Name: a.options.ConfigMap.Name,
		Key: filepath.Base(a.options.Config),
	}
}

func (a *agent) openTree() (err error) {
	kubepods := a.options.KubepodsCgroup
	if kubepods == "" {
		if kubepods, err = cgroups.Find(a.options.CgroupRoot); err != nil {
			return err
		}
	}
	a.options.KubepodsCgroup = kubepods
	a.tree, err = cgroups.Open(a.options.CgroupRoot, kubepods, a.log)
	return err
}

// loadKernel loads the programs; it attaches nothing.
func (a *agent) loadKernel() (err error) {
	if a.hooks, err = intercept.Load(a.options.BPFFS, a.log); err != nil {
		return err
	}
	if a.self, _, err = a.tree.Self(); err != nil {
		return fmt.Errorf("find the agent's own cgroup: %w", err)
	}
	a.line = newSecondLine(a.options, a.log, a.hooks.CountLineRepair)
	return nil
}

func (a *agent) makeDelivery() (err error) {
	a.registry.MustRegister(a.hooks)
	guard, _ := a.options.effectiveGuard()
	a.delivery, err = delivery.NewReconciler(delivery.Options{
		Kernel: a.hooks, Pods: a.pods, Cgroups: a.tree, Proc: a.options.Proc,
		Ports:    a.options.Ports,
		NodeOnly: a.options.Delivery == DeliveryNode, GuardLinks: guard == GuardFull,
		Line:  a.line.forDelivery(),
		Self:  a.self,
		Serve: a.handleConn,
		Pace:  func() func() { return a.broker.Pace() },
		Log:   a.log,
	})
	return err
}

func (a *agent) makeTokens() (err error) {
	apiServer, err := apiServerAddress(a.options.Kubeconfig)
	if err != nil {
		return err
	}
	var accounts corev1.ServiceAccountsGetter
	if a.options.TokenRequest {
		accounts = a.client.CoreV1()
	}
	tracer, err := a.makeTracer()
	if err != nil {
		return err
	}
	a.tokens, err = tokens.New(tokens.Options{
		KubeletDir: a.options.KubeletDir, TenantID: a.options.TenantID,
		Cloud: tokens.Cloud(a.options.Cloud), AuthorityHost: a.options.AuthorityHost,
		CAFile: a.options.CAFile, TokenAudience: a.options.TokenAudience,
		ServiceAccounts: accounts, APIServer: apiServer, TokenProxy: a.options.TokenProxy,
		Notify: a.events.tokenRefused,
		Log:    a.log, Audit: a.log, Registerer: a.registry, Tracer: tracer,
	})
	return err
}

// makeServing makes what answers, and what keeps it as the configuration
// says.
func (a *agent) makeServing() (err error) {
	a.broker, err = broker.New(broker.Options{
		Attester: attest.New(attest.Options{
			Flows: a.hooks, Cgroups: a.tree, Pods: a.pods, Log: a.log, Registerer: a.registry,
		}),
		Tokens: a.tokens, Paths: a.delivery, Settings: brokerSettings(a.watcher.Initial()),
		IMDSEndpoint: a.options.IMDSEndpoint, TenantID: a.options.TenantID,
		Log: a.log, Registerer: a.registry, Clock: clock.RealClock{},
	})
	if err != nil {
		return err
	}
	a.settings = newSettings(a)
	a.metrics = &endpoint{
		address: a.options.MetricsAddress, auth: a.options.MetricsAuth,
		scrapers: metricsserver.NewAuthorizer(metricsserver.AuthorizerOptions{
			TokenReviews: a.client.AuthenticationV1().TokenReviews(), SubjectAccessReviews: a.client.AuthorizationV1().SubjectAccessReviews(),
			Log: a.log, Registerer: a.registry, Clock: clock.RealClock{},
		}),
		registry: a.registry, ready: a.ready, log: a.log, retired: a.retired,
	}
	a.metrics.register()
	return nil
}

// makeUpkeep makes what works beside, and what tells people.
func (a *agent) makeUpkeep() error {
	boot, err := snapshot.BootID(a.options.Proc)
	if err != nil {
		return err
	}
	a.upkeep = &upkeep{
		options: a.options, log: a.log, client: a.client, pods: a.pods, tree: a.tree, tokens: a.tokens,
		snapshot: snapshot.New(a.options.StateDir, snapshot.Origin{Format: podcache.StateFormat, Node: a.options.NodeName, BootID: boot}),
	}
	a.boot = &bootConfig{
		path: a.options.BootConfig, stateDir: a.options.StateDir, log: a.log,
		active: a.settings.active, changed: a.settings.changed,
	}
	a.guards = &guardWatch{options: a.options, log: a.log, events: a.events, delivery: a.delivery, pods: a.pods}
	a.guards.register(a.registry)
	a.line.register(a.registry)
	a.announcement = &announcement{
		stateDir: a.options.StateDir, instance: a.options.Instance, report: reporter{a}.report, log: a.log,
	}
	return nil
}

// makeTracer returns nil where no traces are asked for.
func (a *agent) makeTracer() (trace.Tracer, error) {
	if a.options.TraceEndpoint == "" {
		return nil, nil
	}
	var err error
	a.traces, err = tracing.New(tracing.Options{
		Endpoint: a.options.TraceEndpoint, Node: a.options.NodeName, Version: a.options.Version,
		Getenv: os.Getenv, Log: a.log,
	})
	if err != nil {
		return nil, err
	}
	return a.traces.Tracer(), nil
}

// errNoConfiguration is what is missing while no configuration is valid.
var errNoConfiguration = errors.New("there is no valid configuration: every pod is held until there is one")

// ready reports nil when pods are served, else what is missing.
func (a *agent) ready() error {
	select {
	case <-a.retired:
		return errors.New("another agent has taken over")
	default:
	}
	for _, part := range []struct {
		what string
		done <-chan struct{}
	}{
		{"the pods have not been listed", a.pods.Ready()},
		{"the cgroups have not been listed", a.tree.Ready()},
		{"the programs are not attached", a.attached},
		{"a labelled pod has no listener yet", a.delivery.Ready()},
	} {
		select {
		case <-part.done:
		default:
			return errors.New(part.what)
		}
	}
	if a.watcher.State().Origin == config.OriginNone {
		return errNoConfiguration
	}
	return a.settings.problem()
}

func (a *agent) close() {
	if err := a.release(); err != nil {
		a.log.Warn("cannot release the lock", "err", err)
	}
	if a.hooks != nil {
		if err := a.hooks.Close(); err != nil {
			a.log.Warn("cannot close the programs", "err", err)
		}
	}
	if a.tree != nil {
		if err := a.tree.Close(); err != nil {
			a.log.Warn("cannot close the cgroup tree", "err", err)
		}
	}
}
