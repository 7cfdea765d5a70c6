package podcache

import (
	"cmp"
	"slices"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// entry is what callers get about one pod. It is replaced, never
// changed, so that they may keep its parts.
type entry struct {
	pod      workload.Pod
	workload workload.Workload
	// callers has the workload as single containers have it, by container id;
	// nil where all have the same.
	callers map[string]workload.Workload
}

// newCallers returns the workload of each container whose own AZURE_CLIENT_ID
// says another identity than the pod's containers do together.
func newCallers(r *record, a *account) map[string]workload.Workload {
	if len(r.clientIDs) == 0 || a != nil && a.object != nil && a.object.clientID != "" {
		return nil
	}
	var callers map[string]workload.Workload
	shared, unclear := r.clientIDs.of("")
	for id, name := range r.containerIDs {
		if own, ownUnclear := r.clientIDs.of(name); own == shared && ownUnclear == unclear {
			continue
		}
		if callers == nil {
			callers = map[string]workload.Workload{}
		}
		callers[id] = newWorkload(r, a, name)
	}
	return callers
}

// newWorkload joins a pod with its service account, which is nil if the pod
// has none. The container is the one that asks; empty: it is not known.
func newWorkload(r *record, a *account, container string) workload.Workload {
	clientID, unclear := r.clientIDs.of(container)
	w := workload.Workload{
		PodUID:             r.cgroupUID,
		PodName:            r.name.Name,
		Namespace:          r.name.Namespace,
		ServiceAccount:     r.serviceAccount,
		ChangedAt:          youngest(r.created, r.changed),
		ClientID:           clientID,
		ClientIDUnclear:    unclear,
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
	if a.object.clientID != "" {
		w.ClientID, w.ClientIDUnclear = a.object.clientID, ""
	}
	w.TenantID = cmp.Or(a.object.tenantID, w.TenantID)
	w.Identities = a.identities
	if r.expiration == "" {
		w.TokenExpiration = tokenExpiration(a.object.expiration)
	}
	w.ChangedAt = youngest(w.ChangedAt, a.object.created, a.changed)
	return w
}

func youngest(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }
