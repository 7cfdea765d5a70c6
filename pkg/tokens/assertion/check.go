package assertion

import (
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

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
