// Package assertion gets the service account token of a pod, which the engine
// sends to Entra as the proof of who asks: from the volume that the kubelet
// projects into the pod, or from the API server. It checks each before it
// leaves the node, keeps none, and writes none to a log or an error.
package assertion

import (
	"context"
	"time"

	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/sidestep-agent/sidestep/pkg/tokens/podfile"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Source gets assertions.
type Source struct {
	// Audience is that of tokens for Entra.
	Audience string
	// Pods is where the kubelet keeps the pods' volumes.
	Pods podfile.Dir
	// Accounts is asked for the token of a pod that has no volume with one.
	// Nil: such pods are refused.
	Accounts corev1.ServiceAccountsGetter
}

// Get returns a service account token of the workload's pod that the workload
// may send at that date. The error is a *workload.TokenError and has nothing of
// the token in it.
func (s Source) Get(ctx context.Context, w workload.Workload, now time.Time) (string, error) {
	get := s.read
	if w.Projected == nil && s.Accounts != nil {
		get = s.request
	}
	assertion, err := get(ctx, w)
	if err != nil {
		return "", err
	}
	if err := s.check(assertion, w, now); err != nil {
		return "", err
	}
	return assertion, nil
}

// AudienceFor returns the audience that the workload's assertion must have.
func (s Source) AudienceFor(w workload.Workload) string {
	if w.Binding != nil {
		return workload.BindingAudience
	}
	return s.Audience
}

func refused(format string, args ...any) *workload.TokenError {
	return workload.TokenErrorf(workload.Refused, format, args...)
}

func unavailable(format string, args ...any) *workload.TokenError {
	return workload.TokenErrorf(workload.Unavailable, format, args...)
}
