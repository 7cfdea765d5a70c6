package main

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// accountGrace is how long a service account's tokens outlive its last
	// sight: longer than a pod takes to restart, or the cache to list again.
	accountGrace = 2 * time.Minute
	// accountLook is how often those are looked for that went unseen for as
	// long.
	accountLook = 30 * time.Second
)

// followAccounts erases the tokens of service accounts that no pod of the node
// uses any more, or that another has replaced, until ctx ends.
func (a *agent) followAccounts(ctx context.Context) error {
	if !waitFor(ctx, a.pods.Ready()) {
		return nil
	}
	changes, cancel := a.pods.Subscribe()
	defer cancel()
	ticker := time.NewTicker(accountLook)
	defer ticker.Stop()
	known := make(accounts)
	for {
		for _, uid := range known.see(a.accountsInUse(), time.Now()) {
			a.tokens.Forget(uid)
		}
		select {
		case <-changes:
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// accountsInUse returns the UIDs of the service accounts that pods run as;
// empty for one that is not there.
func (a *agent) accountsInUse() map[types.NamespacedName]string {
	uids := make(map[types.NamespacedName]string)
	for _, p := range a.pods.Pods() {
		if w, _, ok := a.pods.Lookup(workload.CgroupRef{PodUID: p.UID}); ok {
			uids[types.NamespacedName{Namespace: p.Namespace, Name: p.ServiceAccount}] = w.ServiceAccountUID
		}
	}
	return uids
}

// sighting is when and as whose a service account's UID was seen last.
type sighting struct {
	name types.NamespacedName
	at   time.Time
}

// accounts are the service accounts that may have tokens, by UID.
type accounts map[string]sighting

// see takes the service accounts in use now, and returns the UIDs of those to
// forget: at once where another has taken the name, else after the grace.
func (known accounts) see(inUse map[types.NamespacedName]string, now time.Time) (forget []string) {
	for name, uid := range inUse {
		if uid != "" {
			known[uid] = sighting{name, now}
		}
	}
	for uid, s := range known {
		current := inUse[s.name]
		replaced := current != "" && current != uid
		if replaced || now.Sub(s.at) >= accountGrace {
			delete(known, uid)
			forget = append(forget, uid)
		}
	}
	return forget
}
