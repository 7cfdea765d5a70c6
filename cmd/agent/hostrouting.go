package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// hostRoutingLabel is "true" on nodes of AKS with eBPF host routing. Packets
// bypass netfilter there, and AKS blocks those who write rules.
const hostRoutingLabel = "kubernetes.azure.com/ebpf-host-routing"

// errHostRouting says why such a node has no second line.
var errHostRouting = errors.New("the node bears the label " + hostRoutingLabel + "=true, so packets bypass netfilter and no rules may be written: " +
	"what a Service, a tunnel or another node leads to the metadata service is not dropped")

const (
	// firstLabelLook is how long a start waits for the node's label before the
	// second line is made all the same. The programs are attached by then.
	firstLabelLook = time.Second
	labelLook      = 10 * time.Second
	longestPause   = 30 * time.Second // between two looks
)

// nodeGetter reads nodes.
type nodeGetter interface {
	Get(ctx context.Context, name string, o metav1.GetOptions) (*corev1.Node, error)
}

// routesByBPF reports whether the node's packets bypass netfilter, as its label
// says.
func routesByBPF(ctx context.Context, nodes nodeGetter, name string) (bool, error) {
	node, err := nodes.Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
	if err != nil {
		return false, fmt.Errorf("read the label %s of node %s: %w", hostRoutingLabel, name, err)
	}
	return node.Labels[hostRoutingLabel] == "true", nil
}

// decideLine makes the second line where nothing is known of pods yet, unless the
// node's label says that there may be none. A label that cannot be read in time
// is taken for none: rules that packets bypass harm nobody, and are removed once
// the label is known; a line that is missing lets packets through.
func (a *agent) decideLine() error {
	if a.line == nil {
		return nil
	}
	if a.options.secondLine == lineAuto {
		ctx, cancel := context.WithTimeout(context.Background(), firstLabelLook)
		defer cancel()
		client, _, err := newClients(a.options.kubeconfig)
		if err == nil {
			err = a.lookAtLabel(ctx, client.CoreV1().Nodes())
		}
		if err != nil {
			a.log.Debug("the node's label is not known yet", "err", err)
		}
	}
	if a.fresh {
		// Everything is dropped where the node routes, until it is known which pods
		// pass. A table of an earlier agent stays as it is. That it cannot be made is
		// reported by lineState.
		_ = a.line.Hold()
	}
	return nil
}

// lookAtLabel withdraws the line if the node's label says so.
func (a *agent) lookAtLabel(ctx context.Context, nodes nodeGetter) error {
	byBPF, err := routesByBPF(ctx, nodes, a.options.nodeName)
	if err != nil {
		return err
	}
	a.labelKnown = true
	if byBPF {
		a.line.Withdraw(errHostRouting)
		a.lineMissing(errHostRouting)
	}
	return nil
}

// followLabel asks for the node's label until it is known. It does not change
// later: AKS upgrades a node to switch this.
func (a *agent) followLabel(ctx context.Context) error {
	if a.line == nil || a.options.secondLine != lineAuto {
		return nil
	}
	warned := false
	for pause := time.Second; !a.labelKnown && ctx.Err() == nil; pause = min(2*pause, longestPause) {
		look, cancel := context.WithTimeout(ctx, labelLook)
		err := a.lookAtLabel(look, a.client.CoreV1().Nodes())
		cancel()
		if err == nil {
			return nil
		}
		if apierrors.IsForbidden(err) && !warned {
			warned = true
			a.log.Warn("the agent may not read its node: the second line is made whatever the node's label says", "err", err,
				"fix", "apply manifests/base/rbac.yaml, or set --second-line to nftables or off")
		} else {
			a.log.Debug("the node's label is not known yet", "err", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	return nil
}
