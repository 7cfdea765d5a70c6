package kubeapi

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// tokenClaims are those of a service account token bound to a pod, in the
// shape of the API server's own (kubernetes pkg/serviceaccount, claims.go).
type tokenClaims struct {
	Audience   []string `json:"aud"`
	Expiry     int64    `json:"exp"`
	IssuedAt   int64    `json:"iat"`
	Issuer     string   `json:"iss"`
	ID         string   `json:"jti"`
	Kubernetes boundTo  `json:"kubernetes.io"`
	NotBefore  int64    `json:"nbf"`
	Subject    string   `json:"sub"`
}

type boundTo struct {
	Namespace      string `json:"namespace"`
	Node           *ref   `json:"node,omitempty"`
	Pod            ref    `json:"pod"`
	ServiceAccount ref    `json:"serviceaccount"`
}

type ref struct {
	Name string `json:"name"`
	UID  string `json:"uid,omitempty"`
}

// SignServiceAccountToken returns a token for a service account, bound to a
// pod, good for ttl from now on. The node claim is there if the pod is in the
// store and scheduled. Nothing is checked: a test may ask for a wrong token.
func (s *Server) SignServiceAccountToken(namespace, account, accountUID, podName, podUID, audience string, ttl time.Duration) (string, error) {
	now := s.o.Clock.Now()
	claims := tokenClaims{
		Audience:  []string{audience},
		Expiry:    now.Add(ttl).Unix(),
		IssuedAt:  now.Unix(),
		Issuer:    s.o.Issuer,
		ID:        string(uuid.NewUUID()),
		NotBefore: now.Unix(),
		Subject:   "system:serviceaccount:" + namespace + ":" + account,
		Kubernetes: boundTo{
			Namespace:      namespace,
			Pod:            ref{Name: podName, UID: podUID},
			ServiceAccount: ref{Name: account, UID: accountUID},
		},
	}
	if pod, ok := s.store.get(key{pods, namespace, podName}).(*corev1.Pod); ok && pod.Spec.NodeName != "" {
		claims.Kubernetes.Node = &ref{Name: pod.Spec.NodeName}
	}
	return s.o.Key.Sign(claims)
}

// configuration is the issuer's discovery document.
func (s *Server) configuration() any {
	return map[string]any{
		"issuer":                                s.o.Issuer,
		"jwks_uri":                              s.o.Issuer + "/openid/v1/jwks",
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
	}
}
