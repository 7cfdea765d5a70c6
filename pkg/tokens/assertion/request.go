package assertion

import (
	"context"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// How long an assertion from the API server holds. These are the limits of the
// azure-workload-identity webhook, and the admission policy of
// manifests/overlays/token-request knows them too.
const (
	minExpiration = time.Hour
	maxExpiration = 24 * time.Hour
)

// maxRetryAfter bounds how long the API server may have the agent wait.
const maxRetryAfter = time.Hour

// request asks the API server for a token that is bound to the pod. None is
// kept: one is needed for an exchange, and what the exchange brings is cached.
func (s Source) request(ctx context.Context, w workload.Workload) (string, error) {
	asked := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences:         []string{s.Audience},
		ExpirationSeconds: new(expirationSeconds(w.TokenExpiration)),
		BoundObjectRef: &authenticationv1.BoundObjectReference{
			Kind: "Pod", APIVersion: "v1", Name: w.PodName, UID: types.UID(w.PodUID),
		},
	}}
	// A token for an account of the same name, created later, would not be this workload's.
	asked.UID = types.UID(w.ServiceAccountUID)
	answer, err := s.Accounts.ServiceAccounts(w.Namespace).CreateToken(ctx, w.ServiceAccount, asked, metav1.CreateOptions{})
	if err != nil {
		return "", requestError(err, w)
	}
	return answer.Status.Token, nil
}

// expirationSeconds returns what is asked for within the limits, and the least
// where nothing is: an assertion is used once, at once.
func expirationSeconds(asked time.Duration) int64 {
	return int64(min(max(asked, minExpiration), maxExpiration) / time.Second)
}

// requestError says who can fix what the API server answered. The server's
// own words, which name the agent's permissions, are for the log.
func requestError(err error, w workload.Workload) *workload.TokenError {
	var e *workload.TokenError
	switch {
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err):
		e = refused("the API server does not let the agent ask for tokens of %s/%s: apply manifests/overlays/token-request", w.Namespace, w.ServiceAccount)
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		e = unavailable("the pod or its service account is gone, or was created again")
	case apierrors.IsBadRequest(err):
		e = refused("the pod %s/%s does not run as the service account %s", w.Namespace, w.PodName, w.ServiceAccount)
	default:
		e = unavailable("the API server did not issue a token for the pod")
	}
	if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
		e.RetryAfter = min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	e.Err = err
	return e
}
