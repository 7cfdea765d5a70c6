package daemon

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apischema "k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sidestep-agent/sidestep/pkg/routeguard"
)

// oneNode answers for a node with the labels, or with the error.
type oneNode struct {
	labels map[string]string
	err    error
}

func (n oneNode) Get(_ context.Context, name string, _ metav1.GetOptions) (*corev1.Node, error) {
	if name != "node-1" {
		return nil, errors.New("another node was asked for")
	}
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: n.labels}}, n.err
}

// The node's label decides whether there is a second line; where it cannot be
// read there is one.
func TestLineGoesByTheNodesLabel(t *testing.T) {
	forbidden := apierrors.NewForbidden(apischema.GroupResource{Resource: "nodes"}, "node-1", nil)
	for name, tc := range map[string]struct {
		node  oneNode
		known bool
		want  routeguard.State
	}{
		"eBPF host routing":    {oneNode{labels: map[string]string{hostRoutingLabel: "true"}}, true, routeguard.None},
		"switched off":         {oneNode{labels: map[string]string{hostRoutingLabel: "false"}}, true, routeguard.Waiting},
		"another kind":         {oneNode{labels: map[string]string{"kubernetes.azure.com/os-sku": "Ubuntu"}}, true, routeguard.Waiting},
		"may not be read":      {oneNode{err: forbidden}, false, routeguard.Waiting},
		"API server is away":   {oneNode{err: context.DeadlineExceeded}, false, routeguard.Waiting},
		"there is no node yet": {oneNode{err: apierrors.NewNotFound(apischema.GroupResource{Resource: "nodes"}, "node-1")}, false, routeguard.Waiting},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{NodeName: "node-1", Delivery: DeliveryPod}
			o.Guard, o.SecondLine = GuardFull, LineAuto
			l := newSecondLine(o, slog.New(slog.DiscardHandler), func() {})
			if err := l.lookAtLabel(t.Context(), tc.node); (err == nil) != tc.known || !errors.Is(err, tc.node.err) {
				t.Errorf("lookAtLabel: %v, want %v", err, tc.node.err)
			}
			state, why := l.state()
			if state != string(tc.want) || l.labelKnown != tc.known {
				t.Errorf("the line is %s, the label known %t; want %s, %t", state, l.labelKnown, tc.want, tc.known)
			}
			if tc.want == routeguard.None && (!errors.Is(why, errHostRouting) || len(l.problems()) != 1) {
				t.Errorf("why there is none: %v", why)
			}
		})
	}
}
