package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/sidestep-agent/sidestep/pkg/status"
)

// atOnce is how many agents are asked at the same time: each question is an
// exec, which holds a connection through the API server.
const atOnce = 16

func newStatus(t *target, out io.Writer) *cobra.Command {
	var format, node string
	cmd := &cobra.Command{
		Use:   "status [POD]",
		Short: "Show what the agents of all nodes do, or what is done with one pod",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, namespace, err := t.open()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return showPod(cmd.Context(), c, out, namespace, args[0], format)
			}
			return showNodes(cmd.Context(), c, out, node, format)
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "table", "table, wide, json or yaml")
	cmd.Flags().StringVar(&node, "node", "", "this node only")
	return cmd
}

// showPod prints what the agent of the pod's node says about the pod and its
// service account.
func showPod(ctx context.Context, c *cluster, out io.Writer, namespace, name, format string) error {
	f, err := c.gather(ctx, namespace, name)
	if err != nil {
		return err
	}
	if f.agentErr != nil {
		return fmt.Errorf("%s: %w", f.pod.Spec.NodeName, f.agentErr)
	}
	if f.seen == nil {
		return fmt.Errorf("%s does not know the pod: it has ended, or has just been made", f.agent)
	}
	r := f.report
	r.Pods, r.ServiceAccounts = []status.Pod{*f.seen}, []status.ServiceAccount{f.exchange}
	return status.Print(out, r, format)
}

// nodeStatus is one node's line.
type nodeStatus struct {
	Node   string         `json:"node"`
	Agent  string         `json:"agent"`
	Error  string         `json:"error,omitempty"`
	Report *status.Report `json:"report,omitempty"`
}

// broken reports whether somebody must see to the node.
func (n nodeStatus) broken() bool {
	return n.Report == nil || !n.Report.Ready || n.Report.Configuration.Refused != ""
}

// showNodes prints a line per node, and fails if an agent does not answer, is
// not ready, or refuses its configuration.
func showNodes(ctx context.Context, c *cluster, out io.Writer, node, format string) error {
	agents, err := c.agents(ctx, node)
	if err != nil {
		return err
	}
	if len(agents) == 0 {
		return fmt.Errorf("no agent in namespace %s: install it, or name another with --agent-namespace", c.agentNamespace)
	}
	nodes := askAll(ctx, c, agents)
	if err := printNodes(out, nodes, format); err != nil {
		return err
	}
	if slices.ContainsFunc(nodes, nodeStatus.broken) {
		return errBroken
	}
	return nil
}

// askAll asks the agents, and returns their nodes by name. Of two agents on a
// node, one of which takes over from the other, either answers for the one
// that serves: the node has one line.
func askAll(ctx context.Context, c *cluster, agents []corev1.Pod) []nodeStatus {
	answers := make([]nodeStatus, len(agents))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, a := range agents {
		group.Go(func() error {
			answers[i] = nodeStatus{Node: a.Spec.NodeName, Agent: a.Name}
			r, err := c.report(ctx, a.Name)
			if err != nil {
				answers[i].Error = err.Error()
				return nil
			}
			answers[i].Report = &r
			return nil
		})
	}
	_ = group.Wait() // an agent that does not answer is part of the answer
	slices.SortStableFunc(answers, func(a, b nodeStatus) int {
		if a.Node == b.Node && (a.Report == nil) != (b.Report == nil) {
			if a.Report != nil {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Node, b.Node)
	})
	return slices.CompactFunc(answers, func(a, b nodeStatus) bool { return a.Node == b.Node })
}

// errFormat is returned for a form of output that there is not.
var errFormat = errors.New("--output: use table, wide, json or yaml")
