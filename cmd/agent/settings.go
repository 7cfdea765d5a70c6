package main

import (
	"errors"
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sidestep-agent/sidestep/pkg/broker"
	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
)

// connectionQuota is how many steered connections one pod may have open. Real
// clients keep a handful.
const connectionQuota = 1024

// settings carries the configuration to those who obey it.
type settings struct {
	agent      *agent
	reattached prometheus.Counter
	changed    chan struct{} // has one when another configuration is in force
	mu         sync.Mutex
	config     *config.AgentConfiguration
	kubepods   uint64 // 0: the kernel's settings are not this agent's to write
}

func newSettings(a *agent) *settings {
	s := &settings{
		agent: a, config: a.watcher.Initial(), changed: make(chan struct{}, 1),
		reattached: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sidestep_reattachments_total",
			Help: "How often the programs were attached anew because the kubepods cgroup was replaced.",
		}),
	}
	a.registry.MustRegister(s.reattached)
	return s
}

// apply puts a new configuration in force everywhere.
func (s *settings) apply(c *config.AgentConfiguration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config = c
	select {
	case s.changed <- struct{}{}:
	default:
	}
	s.agent.broker.SetSettings(brokerSettings(c))
	err := s.agent.pods.SetConfig(c)
	if s.kubepods == 0 {
		return err
	}
	return errors.Join(err, s.agent.hooks.Configure(s.kernel()))
}

// attach attaches the programs at the kubepods cgroup of the given id.
func (s *settings) attach(kubepods uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kubepods != 0 {
		s.reattached.Inc()
		s.agent.log.Warn("the kubepods cgroup was replaced; attaching anew", "cgroup_id", kubepods)
	}
	s.kubepods = kubepods
	if err := s.agent.hooks.Configure(s.kernel()); err != nil {
		return err
	}
	guard, _ := s.agent.options.effectiveGuard()
	return s.agent.hooks.Attach(s.agent.options.kubepodsCgroup, guard != guardOff)
}

// detach leaves the kernel's settings to another agent. What is attached stays
// so.
func (s *settings) detach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kubepods = 0
}

// inForce returns the configuration in force.
func (s *settings) inForce() *config.AgentConfiguration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.config
}

func (s *settings) kernel() intercept.Settings {
	return s.agent.options.settings(s.config, s.kubepods, s.agent.node.NetnsCookie())
}

// settings returns what the programs at the kubepods cgroup of the given id are
// told, on the node whose network namespace has the cookie.
func (f kernelFlags) settings(c *config.AgentConfiguration, kubepods, nodeNetns uint64) intercept.Settings {
	return intercept.Settings{
		KubepodsID:             kubepods,
		NodeNetns:              nodeNetns,
		NodeListener:           netip.AddrPort(f.listen),
		FirstPort:              f.ports.First,
		LastPort:               f.ports.Last,
		Audit:                  c.Mode == config.ModeAudit,
		UnknownPass:            c.Unknown == config.UnknownPass,
		UnknownHostNetworkPass: c.UnknownHostNetwork == config.UnknownPass,
		DenyWireServer:         c.WireServer == config.WireServerDeny,
		Quota:                  connectionQuota,
	}
}

func brokerSettings(c *config.AgentConfiguration) broker.Settings {
	return broker.Settings{
		Relay: broker.RelaySettings{
			Instance: c.Relay.Instance, UserData: c.Relay.UserData, Allow: c.Relay.Allow,
		},
		Limits: broker.Limits{
			RequestsPerSecond: c.Limits.RequestsPerSecond, Concurrent: c.Limits.Concurrent,
		},
	}
}
