package assertion

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
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

// read returns the token that the kubelet projects into the pod. It reads the
// file at each call, since the kubelet renews it.
func (s Source) read(_ context.Context, w workload.Workload) (string, error) {
	if w.Projected == nil {
		return "", refused("the pod has no projected service account token for the audience %s: "+
			"let the azure-workload-identity webhook add it (install the webhook, then recreate the pod), add the volume to the pod's spec, "+
			"or start the agent with the --token-audience of the pod's own token", s.Audience)
	}
	raw, err := s.Pods.Read(w.PodUID, workload.VolumeFile{
		Plugin: "kubernetes.io~projected", Volume: w.Projected.Volume, Path: w.Projected.Path,
	})
	if err != nil {
		return "", readError(err)
	}
	return strings.TrimSpace(string(raw)), nil
}

func readError(err error) *workload.TokenError {
	var e *workload.TokenError
	switch {
	case errors.Is(err, podfile.ErrPath):
		e = refused("the pod's projected service account token has a path that cannot be used")
	case errors.Is(err, podfile.ErrTooLong):
		e = refused("the pod's projected service account token is too long to be one")
	case errors.Is(err, podfile.ErrElsewhere):
		e = refused("the pod's projected service account token is not a file in the pod's own directory")
	case errors.Is(err, fs.ErrNotExist):
		e = unavailable("the kubelet has not written the pod's projected service account token yet")
	default:
		e = unavailable("the pod's projected service account token cannot be read")
	}
	e.Err = err
	return e
}

type claims struct {
	jwt.RegisteredClaims
	Kubernetes struct {
		Pod struct {
			UID string `json:"uid"`
		} `json:"pod"`
	} `json:"kubernetes.io"`
}

// check makes sure that the assertion is the workload's own, is meant for Entra
// and still holds, before it leaves the node. The signature is Entra's to
// verify.
func (s Source) check(assertion string, w workload.Workload, now time.Time) error {
	var c claims
	if _, _, err := jwt.NewParser().ParseUnverified(assertion, &c); err != nil {
		return refused("the pod's service account token is not a JWT")
	}
	switch {
	case c.Subject != w.Subject():
		return refused("the pod's service account token is not one of %s", w.Subject())
	case !slices.Contains(c.Audience, s.AudienceFor(w)):
		return refused("the pod's service account token is not for the audience %s", s.AudienceFor(w))
	case c.Kubernetes.Pod.UID == "" || c.Kubernetes.Pod.UID != w.PodUID:
		return refused("the service account token is not bound to this pod")
	case c.ExpiresAt == nil:
		return refused("the pod's service account token has no expiry")
	case !c.ExpiresAt.After(now):
		// The kubelet replaces it when it can.
		return unavailable("the pod's service account token has expired and the kubelet has not renewed it yet")
	}
	return nil
}
