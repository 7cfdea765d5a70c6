package podcache

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// StateFormat is the number of the form in which Export writes. Raise it with
// every change of the types below, or of what they mean.
const StateFormat = 2

// state is what a cache knows, to be written down: what decisions and
// workloads are made of, not what they are, since the configuration may be
// another when it is read. None of it is secret. Nil and empty differ.
type state struct {
	Pods     []savedPod
	Accounts []savedAccount
	// IdentityExceptions are nil while the objects are ignored, or not known.
	IdentityExceptions map[string]map[string]podLabels
}

// savedPod is a record.
type savedPod struct {
	Namespace, Name string
	ObjectUID       types.UID
	CgroupUID       string
	Mirror          bool                      `json:",omitzero"`
	ServiceAccount  string                    `json:",omitzero"`
	Labels          map[string]string         `json:",omitzero"`
	HostNetwork     bool                      `json:",omitzero"`
	Ports           []uint16                  `json:",omitzero"`
	Containers      []string                  `json:",omitzero"`
	ContainerIDs    map[string]string         `json:",omitzero"`
	Skipped         []string                  `json:",omitzero"`
	ClientIDs       clientIDs                 `json:",omitzero"`
	TenantID        string                    `json:",omitzero"`
	AuthorityHost   string                    `json:",omitzero"`
	Projected       *workload.ProjectedToken  `json:",omitzero"`
	Binding         *workload.IdentityBinding `json:",omitzero"`
	Expiration      string                    `json:",omitzero"`
	Created         time.Time                 `json:",omitzero"`
	Changed         time.Time                 `json:",omitzero"`
}

// savedAccount is an account that pods use.
type savedAccount struct {
	Namespace, Name string
	Object          *savedServiceAccount `json:",omitzero"`
	LastLabel       labelState
	Changed         time.Time `json:",omitzero"`
}

// savedServiceAccount is a serviceAccount.
type savedServiceAccount struct {
	UID        string
	Labeled    bool      `json:",omitzero"`
	ClientID   string    `json:",omitzero"`
	TenantID   string    `json:",omitzero"`
	Expiration string    `json:",omitzero"`
	Identities string    `json:",omitzero"`
	Created    time.Time `json:",omitzero"`
}

// newState copies what is known. The cache's lock is held.
func newState(
	records map[types.NamespacedName]*record, accounts map[types.NamespacedName]*account, exempt *identityExceptions,
) state {
	var s state
	for _, r := range records {
		s.Pods = append(s.Pods, savePod(r))
	}
	for _, a := range accounts {
		if len(a.users) > 0 {
			s.Accounts = append(s.Accounts, saveAccount(a))
		}
	}
	if exempt != nil {
		s.IdentityExceptions = map[string]map[string]podLabels{}
		for namespace, objects := range exempt.objects {
			s.IdentityExceptions[namespace] = maps.Clone(objects)
		}
	}
	slices.SortFunc(s.Pods, func(a, b savedPod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	slices.SortFunc(s.Accounts, func(a, b savedAccount) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return s
}

func savePod(r *record) savedPod {
	return savedPod{
		Namespace: r.name.Namespace, Name: r.name.Name, ObjectUID: r.objectUID, CgroupUID: r.cgroupUID,
		Mirror: r.mirror, ServiceAccount: r.serviceAccount, Labels: r.labels,
		HostNetwork: r.hostNetwork, Ports: r.ports,
		Containers: r.containers, ContainerIDs: r.containerIDs, Skipped: r.skipped,
		ClientIDs: r.clientIDs, TenantID: r.tenantID, AuthorityHost: r.authorityHost,
		Projected: r.projected, Binding: r.binding, Expiration: r.expiration,
		Created: r.created, Changed: r.changed,
	}
}

// record returns what was saved. A pod that has finished never is.
func (s savedPod) record() *record {
	return &record{changed: s.Changed, pod: pod{
		name:      types.NamespacedName{Namespace: s.Namespace, Name: s.Name},
		objectUID: s.ObjectUID, cgroupUID: s.CgroupUID,
		mirror: s.Mirror, serviceAccount: s.ServiceAccount, labels: s.Labels,
		hostNetwork: s.HostNetwork, ports: s.Ports,
		containers: s.Containers, containerIDs: s.ContainerIDs, skipped: s.Skipped,
		clientIDs: s.ClientIDs, tenantID: s.TenantID, authorityHost: s.AuthorityHost,
		projected: s.Projected, binding: s.Binding, expiration: s.Expiration,
		created: s.Created,
	}}
}

func saveAccount(a *account) savedAccount {
	s := savedAccount{Namespace: a.name.Namespace, Name: a.name.Name, LastLabel: a.lastLabel, Changed: a.changed}
	if o := a.object; o != nil {
		saved := savedServiceAccount{
			UID: o.uid, Labeled: o.labeled, ClientID: o.clientID, TenantID: o.tenantID,
			Expiration: o.expiration, Identities: o.identities, Created: o.created,
		}
		s.Object = &saved
	}
	return s
}

// serviceAccount returns the object that was saved, or nil.
func (s savedAccount) serviceAccount() *serviceAccount {
	if s.Object == nil {
		return nil
	}
	return &serviceAccount{
		uid: s.Object.UID, labeled: s.Object.Labeled, clientID: s.Object.ClientID, tenantID: s.Object.TenantID,
		expiration: s.Object.Expiration, identities: s.Object.Identities, created: s.Object.Created,
	}
}
