package main

import (
	"context"
	"errors"

	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/taint"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func addRemoveTaint(flags *pflag.FlagSet, remove *bool) {
	flags.BoolVar(remove, "remove-taint", false, "take the taint "+taint.Key+" from the node (run: once ready)")
}

// removeTaint lets pods come to the node once those that come will be steered.
func (a *agent) removeTaint(ctx context.Context) error {
	if !a.options.removeTaint || !waitFor(ctx, a.pods.Ready(), a.tree.Ready(), a.attached, a.delivery.Ready()) {
		return nil
	}
	r := taint.Remover{Nodes: a.client.CoreV1().Nodes(), Node: a.options.nodeName, Clock: clock.RealClock{}, Log: a.log}
	return r.Run(ctx)
}

// taintLeftovers returns the taint, if the node bears it. Without an agent
// nothing else would remove it, and no pod would come to the node again.
func taintLeftovers(ctx context.Context, client kubernetes.Interface, node string) ([]workload.Leftover, error) {
	if node == "" {
		return nil, errors.New("--remove-taint needs --node-name")
	}
	r := taint.Remover{Nodes: client.CoreV1().Nodes(), Node: node}
	present, err := r.Present(ctx)
	if err != nil || !present {
		return nil, err
	}
	return []workload.Leftover{{
		What:   "taint " + taint.Key + " of node " + node,
		Remove: func() error { return r.Remove(ctx) },
	}}, nil
}
