package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"k8s.io/client-go/kubernetes"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/attest"
	"github.com/sidestep-agent/sidestep/pkg/broker"
	"github.com/sidestep-agent/sidestep/pkg/cgroups"
	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/handover"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/metricsserver"
	"github.com/sidestep-agent/sidestep/pkg/podcache"
	"github.com/sidestep-agent/sidestep/pkg/routeguard"
	"github.com/sidestep-agent/sidestep/pkg/snapshot"
	"github.com/sidestep-agent/sidestep/pkg/tokens"
	"github.com/sidestep-agent/sidestep/pkg/tracing"
)

// agent has the parts of a running agent. This file makes them and tells each
// of those that it needs; none of them knows another's package.
type agent struct {
	options  runOptions
	self     uint64 // the cgroup of its own pod; 0: it runs in none
	log      *slog.Logger
	registry *prometheus.Registry
	since    time.Time

	client   kubernetes.Interface
	watcher  *config.Watcher
	events   *events
	pods     *podcache.Cache
	snapshot *snapshot.File // what is kept of pods
	tree     *cgroups.Tree
	hooks    *intercept.Hooks
	line     *routeguard.Line // nil: the guard has none
	fresh    bool             // no agent has configured the programs before
	node     *delivery.Node
	delivery *delivery.Reconciler
	tokens   *tokens.Engine
	broker   *broker.Server
	traces   *tracing.Tracing // nil: none are made
	settings *settings
	scrapers *metricsserver.Authorizer // says who may get the metrics

	labelKnown bool // the node's, that the second line goes by

	attached   chan struct{} // closed once the programs are attached
	attachOnce sync.Once

	lock      *handover.Lock // nil: another agent's, or given away
	metrics   atomic.Pointer[net.Listener]
	announced bool          // `agent status` asks this agent
	tookOver  chan struct{} // closed once listeners may be this agent's
	retired   chan struct{} // closed once a successor serves

	rootCgroup sync.Once // it has been logged

	bootProblem atomic.Pointer[string] // why the boot guard's configuration is not kept
}

// newAttached makes what keeps pods from the node's identity, and puts that in
// force; makeRest makes what serves them. On an error nothing is left open.
func newAttached(o runOptions, log *slog.Logger) (*agent, error) {
	a := &agent{
		options: o, log: log, since: time.Now(),
		registry: newRegistry(), attached: make(chan struct{}),
		tookOver: make(chan struct{}), retired: make(chan struct{}),
	}
	if err := inTurn(a.openTree, a.acquire, a.loadKernel, a.makeLine, a.attachFirst, a.decideLine); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

// makeRest makes the other parts in the order in which they need each other.
func (a *agent) makeRest() error {
	return inTurn(a.makeSources, a.makeDelivery, a.makeTokens, a.makeServing)
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

func newRegistry() *prometheus.Registry {
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
	client, custom, err := newClients(a.options.kubeconfig)
	if err != nil {
		return err
	}
	a.client = client
	a.watcher, err = config.NewWatcher(config.WatcherOptions{
		Path: a.options.config, StateDir: a.options.stateDir, Source: a.options.configMap.source(client, a.options.config),
		Registerer: a.registry, Log: a.log, Clock: clock.RealClock{},
	})
	if err != nil {
		return err
	}
	a.events = newEvents(client, a.options.nodeName, a.registry)
	a.scrapers = metricsserver.NewAuthorizer(metricsserver.AuthorizerOptions{
		TokenReviews: client.AuthenticationV1().TokenReviews(), SubjectAccessReviews: client.AuthorizationV1().SubjectAccessReviews(),
		Log: a.log, Registerer: a.registry, Clock: clock.RealClock{},
	})
	a.applyLine(a.watcher.Initial())
	a.pods, err = podcache.New(podcache.Options{
		Client: client, Dynamic: custom, NodeName: a.options.nodeName, Config: a.watcher.Initial(),
		Registerer: a.registry, Log: a.log, Clock: clock.RealClock{}, TokenAudience: a.options.tokenAudience,
	})
	if err != nil {
		return err
	}
	a.snapshot, err = newSnapshot(a.options)
	return err
}

func (a *agent) openTree() (err error) {
	kubepods := a.options.kubepodsCgroup
	if kubepods == "" {
		if kubepods, err = cgroups.Find(a.options.cgroupRoot); err != nil {
			return err
		}
	}
	a.options.kubepodsCgroup = kubepods
	a.tree, err = cgroups.Open(a.options.cgroupRoot, kubepods, a.log)
	return err
}

// loadKernel loads the programs; it attaches nothing.
func (a *agent) loadKernel() (err error) {
	if a.hooks, err = intercept.Load(a.options.bpffs, a.log); err != nil {
		return err
	}
	if a.self, _, err = a.tree.Self(); err != nil {
		return fmt.Errorf("find the agent's own cgroup: %w", err)
	}
	return nil
}

func (a *agent) makeDelivery() (err error) {
	a.registry.MustRegister(a.hooks)
	guard, _ := a.options.effectiveGuard()
	a.delivery, err = delivery.NewReconciler(delivery.Options{
		Kernel: a.hooks, Pods: a.pods, Cgroups: a.tree, Proc: a.options.proc,
		Ports:    delivery.PortRange(a.options.ports),
		NodeOnly: a.options.delivery == deliveryNode, GuardLinks: guard == guardFull,
		Line:  a.deliveryLine(),
		Self:  a.self,
		Serve: a.handleConn,
		Log:   a.log,
	})
	return err
}

func (a *agent) makeTokens() (err error) {
	apiServer, err := apiServerAddress(a.options.kubeconfig)
	if err != nil {
		return err
	}
	var accounts corev1.ServiceAccountsGetter
	if a.options.tokenRequest {
		accounts = a.client.CoreV1()
	}
	tracer, err := a.makeTracer()
	if err != nil {
		return err
	}
	a.tokens, err = tokens.New(tokens.Options{
		KubeletDir: a.options.kubeletDir, TenantID: a.options.tenantID,
		Cloud: tokens.Cloud(a.options.cloud), AuthorityHost: a.options.authorityHost,
		CAFile: a.options.caFile, TokenAudience: a.options.tokenAudience,
		ServiceAccounts: accounts, APIServer: apiServer, TokenProxy: a.options.tokenProxy,
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
		IMDSEndpoint: a.options.imdsEndpoint, TenantID: a.options.tenantID,
		Log: a.log, Registerer: a.registry, Clock: clock.RealClock{},
	})
	if err != nil {
		return err
	}
	a.settings = newSettings(a)
	a.tellGuard()
	a.tellLine()
	a.tellReady()
	return nil
}

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

// waitFor waits until all of the channels are closed; false if ctx ends first.
func waitFor(ctx context.Context, all ...<-chan struct{}) bool {
	for _, ch := range all {
		select {
		case <-ch:
		case <-ctx.Done():
			return false
		}
	}
	return true
}
