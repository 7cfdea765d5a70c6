package podcache

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// serviceAccount is all that the cache keeps of a service account object.
type serviceAccount struct {
	uid        string
	labeled    bool // bears the label that selects pods
	clientID   string
	tenantID   string
	expiration string // the annotation
	identities string // the annotation's JSON
	created    time.Time
}

// newServiceAccount reads an object of the API. Values are trimmed.
func newServiceAccount(o *corev1.ServiceAccount) serviceAccount {
	return serviceAccount{
		uid:        string(o.UID),
		labeled:    o.Labels[workload.UseLabel] == "true",
		clientID:   trimmed(o.Annotations[workload.ClientIDAnnotation]),
		tenantID:   trimmed(o.Annotations[workload.TenantIDAnnotation]),
		expiration: trimmed(o.Annotations[expirationAnnotation]),
		identities: trimmed(o.Annotations[workload.IdentitiesAnnotation]),
		created:    o.CreationTimestamp.UTC(),
	}
}

// tokenExpiration reads the annotation service-account-token-expiration: whole
// seconds. What is no number says nothing, as if it were not there.
func tokenExpiration(annotation string) time.Duration {
	seconds, err := strconv.ParseInt(annotation, 10, 32)
	if err != nil || seconds <= 0 {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

var errNoClientID = errors.New("no clientId")

// parseIdentities reads the annotation sidestep.dev/identities: a JSON list
// of what `az identity show` prints, other fields ignored. One bad entry makes
// all of it an error, so that no mapping is half applied.
func parseIdentities(annotation string) ([]workload.MappedIdentity, error) {
	if annotation == "" {
		return nil, nil
	}
	var ids []workload.MappedIdentity
	if err := json.Unmarshal([]byte(annotation), &ids); err != nil {
		return nil, err
	}
	for i := range ids {
		id := &ids[i]
		for _, value := range []*string{&id.ClientID, &id.ResourceID, &id.PrincipalID} {
			*value = trimmed(*value)
		}
		if id.ClientID == "" {
			return nil, fmt.Errorf("entry %d: %w", i+1, errNoClientID)
		}
	}
	return ids, nil
}
