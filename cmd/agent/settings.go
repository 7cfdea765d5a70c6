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
	mu         sync.Mutex
	config     *config.AgentConfiguration
	kubepods   uint64 // 0: the kernel's settings are not this agent's to write
}

func newSettings(a *agent) *settings {
	s := &settings{
		agent: a, config: a.watcher.Initial(),
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

// mode returns the mode in force.
func (s *settings) mode() config.Mode {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.config.Mode
}

func (s *settings) kernel() intercept.Settings {
	o := s.agent.options
	return intercept.Settings{
		KubepodsID:             s.kubepods,
		NodeNetns:              s.agent.node.NetnsCookie(),
		NodeListener:           netip.AddrPort(o.listen),
		FirstPort:              o.ports.First,
		LastPort:               o.ports.Last,
		Audit:                  s.config.Mode == config.ModeAudit,
		UnknownPass:            s.config.Unknown == config.UnknownPass,
		UnknownHostNetworkPass: s.config.UnknownHostNetwork == config.UnknownPass,
		DenyWireServer:         s.config.WireServer == config.WireServerDeny,
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
