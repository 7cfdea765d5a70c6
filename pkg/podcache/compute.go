package podcache

import (
	"cmp"
	"slices"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// entry is what callers are told about one pod. It is replaced, never
// changed, so that they may keep its parts.
type entry struct {
	pod      workload.Pod
	workload workload.Workload
}

// compute works out anew what callers are told about a cgroup UID. The caller
// holds the lock.
func (c *Cache) compute(cgroupUID string) {
	r := owner(c.claims[cgroupUID])
	if r == nil {
		delete(c.entries, cgroupUID)
		return
	}
	c.entries[cgroupUID] = c.newEntry(r)
}

// owner returns the one record that a cgroup UID belongs to, or nil. A mirror
// pod's cgroup UID is an annotation that whoever may create pods can write, so
// it never takes a UID from the pod whose own UID that is, and two mirror pods
// with the same one are both disbelieved.
func owner(claims []*record) *record {
	var mirror *record
	mirrors := 0
	for _, r := range claims {
		if !r.mirror {
			return r
		}
		mirror = r
		mirrors++
	}
	if mirrors != 1 {
		return nil
	}
	return mirror
}

func (c *Cache) newEntry(r *record) *entry {
	a := c.accounts[r.account()]
	decision, containers := c.policy.decide(&r.pod, a.label(), c.exempt)
	return &entry{
		pod: workload.Pod{
			UID:            r.cgroupUID,
			Namespace:      r.name.Namespace,
			Name:           r.name.Name,
			ServiceAccount: r.serviceAccount,
			HostNetwork:    r.hostNetwork,
			Ports:          r.ports,
			Decision:       decision,
			Containers:     containers,
		},
		workload: newWorkload(r, a),
	}
}

// newWorkload joins a pod with its service account, which is nil if the pod
// has none.
func newWorkload(r *record, a *account) workload.Workload {
	w := workload.Workload{
		PodUID:             r.cgroupUID,
		PodName:            r.name.Name,
		Namespace:          r.name.Namespace,
		ServiceAccount:     r.serviceAccount,
		ChangedAt:          youngest(r.created, r.changed),
		ClientID:           r.clientID,
		TenantID:           r.tenantID,
		AuthorityHost:      r.authorityHost,
		Projected:          r.projected,
		Binding:            r.binding,
		TokenExpiration:    tokenExpiration(r.expiration),
		ServiceAccountSeen: a == nil, // nothing to wait for
	}
	if a == nil || a.object == nil {
		return w
	}
	w.ServiceAccountSeen = true
	w.ServiceAccountUID = a.object.uid
	w.ClientID = cmp.Or(a.object.clientID, w.ClientID)
	w.TenantID = cmp.Or(a.object.tenantID, w.TenantID)
	w.Identities = a.identities
	if r.expiration == "" {
		w.TokenExpiration = tokenExpiration(a.object.expiration)
	}
	w.ChangedAt = youngest(w.ChangedAt, a.object.created, a.changed)
	return w
}

func youngest(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }
