package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/podcache"
)

// fleet is the API side of one agent per node.
type fleet struct {
	plane  *controlPlane
	ctx    context.Context // the agents' life
	stop   context.CancelFunc
	agents []*podcache.Cache
}

func newFleet(ctx context.Context, plane *controlPlane) *fleet {
	f := &fleet{plane: plane}
	f.ctx, f.stop = context.WithCancel(ctx)
	return f
}

// growTo starts agents until there are n, as many a second as a cluster brings
// up nodes at the utmost, and returns once all know their pods.
func (f *fleet) growTo(ctx context.Context, n int) error {
	for node := len(f.agents); node < n; node++ {
		agent, err := f.newAgent(node)
		if err != nil {
			return err
		}
		f.agents = append(f.agents, agent)
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return f.awaitPods(ctx)
}

func (f *fleet) newAgent(node int) (*podcache.Cache, error) {
	c := f.plane.config(agentToken, 50) // as cmd/agent has it
	c.UserAgent = "sidestep-agent/scale"
	// A dialer of its own keeps client-go from giving all one connection.
	c.Dial = (&net.Dialer{Timeout: 30 * time.Second}).DialContext
	client, err := kubernetes.NewForConfig(c)
	if err != nil {
		return nil, err
	}
	custom, err := dynamic.NewForConfig(c)
	if err != nil {
		return nil, err
	}
	agent, err := podcache.New(podcache.Options{
		Client: client, Dynamic: custom, NodeName: nodeName(node), Config: config.Default(),
		Registerer: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler), Clock: clock.RealClock{},
	})
	if err != nil {
		return nil, err
	}
	go func() { _ = agent.Run(f.ctx) }() // it returns nil, when ctx ends
	return agent, nil
}

// awaitPods returns once every agent has listed its pods and their accounts.
func (f *fleet) awaitPods(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for node, agent := range f.agents {
		select {
		case <-agent.Ready():
		case <-ctx.Done():
			return fmt.Errorf("agent %d knows its pods: %w", node, ctx.Err())
		}
		if n := len(agent.Pods()); n != podsPerNode {
			return fmt.Errorf("agent %d knows %d pods, want its own %d", node, n, podsPerNode)
		}
	}
	return nil
}

// watches is how many the agents must have open.
func (f *fleet) watches() int { return len(f.agents) * (1 + accountsPerNode) }

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
