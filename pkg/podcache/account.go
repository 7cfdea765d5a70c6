package podcache

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// linger is how long a service account is watched after its last pod went, so
// that a restart or a CronJob does not ask for it anew each time.
const linger = time.Minute

// account is a service account that is watched.
type account struct {
	name       types.NamespacedName
	users      map[*record]struct{}
	stop       context.CancelFunc // ends the watch
	synced     bool               // the API told whether it exists
	object     *serviceAccount    // nil: not seen, or it does not exist
	lastLabel  labelState         // as it was when the account last existed
	identities []workload.MappedIdentity
	changed    time.Time // when it was last seen to change; zero: never
}

// label returns what is known of the account's label. It outlives the account:
// while one is deleted and created anew, its pods must not be let through to
// the node's identity. A pod without a service account has a nil account.
func (a *account) label() labelState {
	if a == nil {
		return labelAbsent
	}
	return a.lastLabel
}

// setObject takes what the API says of the account; nil if it does not exist.
func (a *account) setObject(next *serviceAccount) {
	a.synced, a.object = true, next
	switch {
	case next == nil:
	case next.labeled:
		a.lastLabel = labelPresent
	default:
		a.lastLabel = labelAbsent
	}
}

// use notes that a pod uses its service account, and has it watched if no
// other pod did. The caller holds the lock, as it does for the functions below.
func (c *Cache) use(ctx context.Context, r *record) {
	name := r.account()
	if name.Name == "" {
		return
	}
	a := c.accounts[name]
	if a == nil {
		a = c.watchAccount(ctx, name)
	}
	a.users[r] = struct{}{}
}

func (c *Cache) watchAccount(ctx context.Context, name types.NamespacedName) *account {
	ctx, stop := context.WithCancel(ctx)
	a := &account{name: name, users: map[*record]struct{}{}, stop: stop}
	c.accounts[name] = a
	accounts := c.client.CoreV1().ServiceAccounts(name.Namespace)
	lw := listWatch(fields.OneTermEqualSelector("metadata.name", name.Name),
		c.watchErrorsOf("service account "+name.String()), accounts.List, accounts.Watch)
	go keep(ctx, accountStore{c, a}, "serviceaccount", lw, c.client, &corev1.ServiceAccount{})
	return a
}

// release notes that a pod does not use its service account any more.
func (c *Cache) release(ctx context.Context, r *record) {
	a := c.accounts[r.account()]
	if a == nil {
		return
	}
	delete(a.users, r)
	if len(a.users) > 0 {
		return
	}
	delete(c.pending, a.name)
	c.checkReady()
	timer := c.clock.NewTimer(linger)
	go func() {
		defer timer.Stop()
		select {
		case <-ctx.Done():
		case <-timer.C():
			c.endUnused(a)
		}
	}()
}

// endUnused ends the watch of an account that no pod uses. It takes the lock.
func (c *Cache) endUnused(a *account) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(a.users) > 0 || c.accounts[a.name] != a {
		return
	}
	a.stop()
	delete(c.accounts, a.name)
}

// accountStore takes one service account from its reflector.
type accountStore struct {
	*Cache
	account *account
}

// Add takes the account as it is now.
func (s accountStore) Add(o any) error {
	s.setAccount(s.account, []any{o})
	return nil
}

// Update takes the account as it is now.
func (s accountStore) Update(o any) error { return s.Add(o) }

// Delete notes that the account does not exist.
func (s accountStore) Delete(any) error {
	s.setAccount(s.account, nil)
	return nil
}

// Replace takes the answer to a list: the account, or nothing.
func (s accountStore) Replace(list []any, _ string) error {
	s.setAccount(s.account, list)
	return nil
}

// Resync is never asked for.
func (s accountStore) Resync() error { return nil }

// setAccount takes what the API says of an account and works out its pods
// anew if that is news. It takes the lock.
func (c *Cache) setAccount(a *account, objects []any) {
	next := find(objects, a.name)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.accounts[a.name] != a {
		return // its watch has ended
	}
	same := a.synced && equal(a.object, next)
	if a.synced && !same {
		a.changed = c.clock.Now()
	}
	if !same {
		c.readIdentities(a, next)
		a.setObject(next)
		for r := range a.users {
			c.compute(r.cgroupUID)
		}
		c.notify()
	}
	delete(c.pending, a.name)
	c.checkReady()
}

// readIdentities sets the account's mapped identities from its next object. A
// broken annotation maps none, and is logged when it appears.
func (c *Cache) readIdentities(a *account, next *serviceAccount) {
	if next == nil {
		a.identities = nil
		return
	}
	if a.object != nil && a.object.identities == next.identities {
		return
	}
	ids, err := parseIdentities(next.identities)
	if err != nil {
		c.log.Warn("service account annotation is not valid: no identity is mapped by it",
			"annotation", identitiesAnnotation, "namespace", a.name.Namespace,
			"service_account", a.name.Name, "err", err)
	}
	a.identities = ids
}

// find returns the named account among objects, or nil. Others are there only
// if a server does not know the field selector.
func find(objects []any, name types.NamespacedName) *serviceAccount {
	for _, item := range objects {
		o := item.(*corev1.ServiceAccount)
		if o.Namespace == name.Namespace && o.Name == name.Name {
			sa := newServiceAccount(o)
			return &sa
		}
	}
	return nil
}

func equal(a, b *serviceAccount) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
