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
	pod workload.Pod
	// workload is that of a caller whose container is not known.
	workload workload.Workload
	// callers has the workload as single containers have it, by container id;
	// nil where all have the same.
	callers map[string]workload.Workload
}

// newWorkloads returns what an entry has of a pod and its service account: the
// workload of a caller whose container is not known, and, where containers
// differ in their own AZURE_CLIENT_ID and no annotation goes before it, those of
// the containers that are.
func newWorkloads(r *record, a *account) (workload.Workload, map[string]workload.Workload) {
	w := newWorkload(r, a)
	if w.ClientID != "" || len(r.clientIDs) == 0 {
		return w, nil
	}
	if id, unclear, same := r.clientIDs.same(r.containers); same {
		w.ClientID, w.ClientIDUnclear = id, unclear
		return w, nil
	}
	callers := map[string]workload.Workload{}
	for id, name := range r.containerIDs {
		own := w
		own.ClientID, own.ClientIDUnclear = r.clientIDs.of(name)
		callers[id] = own
	}
	w.ContainerUnknown = true
	w.ClientIDUnclear = "the pod's containers differ in " + clientIDVariable + ", and it is not known which of them asks"
	return w, callers
}

// newWorkload joins a pod with its service account, which is nil if the pod has
// none. Its client id is the annotation's.
func newWorkload(r *record, a *account) workload.Workload {
	w := workload.Workload{
		PodUID:             r.cgroupUID,
		PodName:            r.name.Name,
		Namespace:          r.name.Namespace,
		ServiceAccount:     r.serviceAccount,
		ChangedAt:          youngest(r.created, r.changed),
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
	w.ClientID = a.object.clientID
	w.TenantID = cmp.Or(a.object.tenantID, w.TenantID)
	w.Identities = a.identities
	if r.expiration == "" {
		w.TokenExpiration = tokenExpiration(a.object.expiration)
	}
	w.ChangedAt = youngest(w.ChangedAt, a.object.created, a.changed)
	return w
}

func youngest(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }
