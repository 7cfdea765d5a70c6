package taint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
)

// Key is the taint's. Its value and its effect are whoever's who registers it.
const Key = "sidestep.dev/agent-not-ready"

// ErrNotAllowed means that the API server refuses what a Remover asks for.
var ErrNotAllowed = errors.New("taint: the agent may not read or change its node: apply manifests/overlays/taint, " +
	"and do not set the taint by an API that forbids its removal, as that of AKS node pools does")

// ErrContended means that others changed the node at every try.
var ErrContended = errors.New("taint: others change the node all the time")

const (
	interval   = 30 * time.Second // from one look at the node to the next
	firstPause = time.Second      // after a failure; doubled up to the interval
	tries      = 5                // of one removal, when others change the node
)

// Nodes is what a Remover asks the API server.
type Nodes interface {
	Get(ctx context.Context, name string, o metav1.GetOptions) (*corev1.Node, error)
	Patch(ctx context.Context, name string, kind types.PatchType, patch []byte, o metav1.PatchOptions, subresources ...string) (*corev1.Node, error)
}

// Remover takes the taint from one node. All fields are needed.
type Remover struct {
	Nodes Nodes
	Node  string // its name
	Clock clock.Clock
	Log   *slog.Logger
}

// Run removes the taint now, and again whenever it is back: a kubelet whose
// node object was deleted registers it again. It returns nil when ctx ends.
func (r *Remover) Run(ctx context.Context) error {
	var wait time.Duration
	for failing := firstPause; ctx.Err() == nil; {
		if err := r.look(ctx); err != nil {
			wait, failing = failing, min(2*failing, interval)
			r.Log.Warn("cannot take the taint from the node yet", "err", err, "retry_in", wait.String())
		} else {
			wait, failing = interval, firstPause
		}
		timer := r.Clock.NewTimer(wait)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return nil
}

func (r *Remover) look(ctx context.Context) error {
	present, err := r.Present(ctx)
	if err != nil || !present {
		return err
	}
	if err := r.Remove(ctx); err != nil {
		return err
	}
	r.Log.Info("took the taint from the node", "node", r.Node, "taint", Key)
	return nil
}

// Present reports whether the node bears the taint, as far as the API server's
// cache knows.
func (r *Remover) Present(ctx context.Context) (bool, error) {
	node, err := r.Nodes.Get(ctx, r.Node, metav1.GetOptions{ResourceVersion: "0"})
	if err != nil {
		return false, wrap("look for the taint", err)
	}
	return slices.ContainsFunc(node.Spec.Taints, isOurs), nil
}

// Remove removes the taint, with whichever values and effects it is there,
// and leaves others as they are. A node without it is left alone. The error is
// ErrNotAllowed, ErrContended, or one of the API server's.
func (r *Remover) Remove(ctx context.Context) error {
	for range tries {
		node, err := r.Nodes.Get(ctx, r.Node, metav1.GetOptions{})
		if err != nil {
			return wrap("read the node", err)
		}
		if !slices.ContainsFunc(node.Spec.Taints, isOurs) {
			return nil
		}
		patch, err := without(node)
		if err != nil {
			return err
		}
		_, err = r.Nodes.Patch(ctx, r.Node, types.MergePatchType, patch, metav1.PatchOptions{})
		if !apierrors.IsConflict(err) {
			return wrap("take it from the node", err)
		}
	}
	return ErrContended
}

// without returns the patch. The list of taints is replaced as a whole, so it
// holds only for the version of the node that it was read from: with another,
// the API server answers that there is a conflict.
func without(node *corev1.Node) ([]byte, error) {
	left := slices.DeleteFunc(slices.Clone(node.Spec.Taints), isOurs)
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID, "resourceVersion": node.ResourceVersion},
		"spec":     map[string]any{"taints": left},
	})
}

func isOurs(t corev1.Taint) bool { return t.Key == Key }

func wrap(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: %w", ErrNotAllowed, err)
	default:
		return fmt.Errorf("taint: %s: %w", what, err)
	}
}
