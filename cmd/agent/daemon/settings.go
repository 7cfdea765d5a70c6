package daemon

import (
	"context"
	"errors"
	"sync"

	"github.com/sidestep-agent/sidestep/pkg/broker"
	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
)

// errNodeListener is what is wrong while others have the node listener's port.
var errNodeListener = errors.New("another has the node listener's port: pods that are not known yet are refused; " +
	"end who listens there (ss -ltnp), or set --listen")

// errOtherLayout is what is missing while the programs of another version decide.
var errOtherLayout = errors.New("the programs of another version are still active: they are replaced once every pod has its verdict")

// settings carries the configuration to those who obey it.
type settings struct {
	agent      *agent
	changed    chan struct{} // has one when another configuration is active
	mu         sync.Mutex
	config     *config.AgentConfiguration
	kubepods   uint64             // 0: the kernel's settings are not this agent's to write
	configured intercept.Settings // as last written
	wrong      error              // why the programs are not attached as they should be
}

func newSettings(a *agent) *settings {
	return &settings{agent: a, config: a.watcher.Initial(), changed: make(chan struct{}, 1)}
}

// follow applies each new configuration until ctx ends.
func (s *settings) follow(ctx context.Context) error {
	return s.agent.watcher.Run(ctx, func(c *config.AgentConfiguration) {
		if err := s.apply(c); err != nil {
			s.agent.log.Error("the new configuration could not be applied", "err", err)
		}
	}, func(err error) {
		s.agent.log.Error("the new configuration was refused, what was applied stays so", "err", err)
		s.agent.events.configurationRefused(err)
	})
}

// apply applies a new configuration everywhere.
func (s *settings) apply(c *config.AgentConfiguration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config = c
	select {
	case s.changed <- struct{}{}:
	default:
	}
	s.agent.broker.SetSettings(brokerSettings(c))
	s.agent.line.apply(c)
	err := s.agent.pods.SetConfig(c)
	if s.kubepods == 0 {
		return err
	}
	return errors.Join(err, s.configure())
}

// attach makes sure that the programs are attached at the kubepods cgroup of the
// given id, with the settings of now. It is called again and again.
func (s *settings) attach(kubepods uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kubepods = kubepods
	err := s.configure()
	if err == nil {
		err = s.agent.attachOwn()
	}
	if err == nil {
		guard, _ := s.agent.options.effectiveGuard()
		err = s.agent.hooks.Attach(s.agent.options.KubepodsCgroup, guard != GuardOff)
	}
	s.enforce()
	s.note(err)
	return err
}

// configure tells the kernel the settings, if it has others.
func (s *settings) configure() error {
	want, err := s.kernel()
	if err != nil || want == s.configured {
		return err
	}
	if err = s.agent.hooks.Configure(want); err != nil {
		return err
	}
	s.configured = want
	s.enforce()
	return nil
}

// enforce tells delivery whether the kernel acts by the verdicts that it sets.
func (s *settings) enforce() {
	configured := s.configured != intercept.Settings{}
	s.agent.delivery.SetEnforced(configured && !s.configured.Audit && s.agent.hooks.Active())
}

// note keeps what is wrong for people to see, and tells the log of a change.
func (s *settings) note(err error) {
	switch {
	case err != nil && s.wrong == nil:
		s.agent.log.Error("the programs are not attached as they should be; trying again", "err", err)
	case err == nil && s.wrong != nil:
		s.agent.log.Info("the programs are attached again")
	}
	s.wrong = err
}

// problem returns why pods are not served as they should be, nil if they are.
func (s *settings) problem() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wrong == nil && s.kubepods != 0 && !s.agent.hooks.Active() {
		return errOtherLayout
	}
	if s.wrong == nil && s.configured.NoNodeListener {
		return errNodeListener
	}
	return s.wrong
}

// detach leaves the kernel's settings to another agent. What is attached stays
// so.
func (s *settings) detach() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kubepods, s.configured, s.wrong = 0, intercept.Settings{}, nil
	return s.agent.hooks.Detach()
}

// active returns the active configuration.
func (s *settings) active() *config.AgentConfiguration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.config
}

func (s *settings) kernel() (intercept.Settings, error) {
	o := &s.agent.options
	k, err := o.settings(s.config, o.KubepodsCgroup, s.kubepods, s.agent.node.NetnsCookie())
	k.NoNodeListener = !s.agent.node.Listening()
	return k, err
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
