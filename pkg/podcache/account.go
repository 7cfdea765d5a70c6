package podcache

import (
	"context"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/sidestep-agent/sidestep/pkg/podcache/listwatch"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// linger is how long a service account is watched after its last pod went, so
// that a restart or a CronJob does not ask for it again each time.
const linger = time.Minute

// account is a service account that is watched.
type account struct {
	name       types.NamespacedName
	users      map[*record]struct{}
	stop       context.CancelFunc // ends the watch; nil: it is not watched yet
	synced     bool               // the API has reported whether it exists
	object     *serviceAccount    // nil: not seen, or it did not exist when its pods came
	deleted    bool               // since; object is as it was last
	lastLabel  labelState         // as it was when the account last existed
	identities []workload.MappedIdentity
	changed    time.Time // when it was last seen to change; zero: never
}

// label returns what is known of the account's label. It outlives the account:
// while one is deleted and created again, its pods must not be let through to
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

// use notes that a pod uses its service account, and returns that; nil if the
// pod has none. The caller holds the lock, as it does for the functions below.
func (c *Cache) use(r *record) *account {
	name := r.account()
	if name.Name == "" {
		return nil
	}
	a := c.accounts[name]
	if a == nil {
		a = &account{name: name, users: map[*record]struct{}{}}
		c.accounts[name] = a
	}
	a.users[r] = struct{}{}
	return a
}

// follow has a service account watched, unless it is already or is nil.
func (c *Cache) follow(ctx context.Context, a *account) {
	if a != nil && a.stop == nil {
		c.followAfter(ctx, a, 0)
	}
}

// followAfter has a service account that is not watched, watched after a while.
func (c *Cache) followAfter(ctx context.Context, a *account, after time.Duration) {
	ctx, a.stop = context.WithCancel(ctx)
	accounts := c.client.CoreV1().ServiceAccounts(a.name.Namespace)
	lw := listwatch.New(fields.OneTermEqualSelector("metadata.name", a.name.Name),
		c.errors.Of("service account "+a.name.String()), listwatch.Behind(c.gate, accounts.List), c.spread(a, accounts.Watch))
	store := accountStore{c, a, ctx}
	go func() {
		if after > 0 && !c.sleep(ctx, after) {
			return
		}
		listwatch.Keep(ctx, store, "serviceaccount", lw, c.client, &corev1.ServiceAccount{})
	}()
}

// sleep waits for that long; false if ctx is done first.
func (c *Cache) sleep(ctx context.Context, d time.Duration) bool {
	timer := c.clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
		return true
	case <-ctx.Done():
		return false
	}
}

// spreadTime is how long the watches of an agent's service accounts take to
// come back after a failure. There are many on each node, and after an API
// server's restart those of all nodes come at the same time. An account changes
// seldom, and what was seen of it holds meanwhile; the watch of pods, on which
// new pods wait, is not kept back.
const spreadTime = 30 * time.Second

type watchFunc = listwatch.Call[watch.Interface]

// spread has a watch of an account that was seen wait at random after one that
// failed or found the gate shut. The function that it returns is for one
// goroutine.
func (c *Cache) spread(a *account, next watchFunc) watchFunc {
	failed := false
	return func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		waited, err := c.gate.Pass(ctx)
		if err != nil {
			return nil, err
		}
		if (failed || waited) && c.hasSeen(a) && !c.sleep(ctx, rand.N(spreadTime)) {
			return nil, ctx.Err()
		}
		w, err := next(ctx, o)
		failed = err != nil
		return w, err
	}
}

func (c *Cache) hasSeen(a *account) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return a.synced
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
	if a.stop != nil {
		a.stop()
	}
	delete(c.accounts, a.name)
}

// accountStore takes one service account from its reflector.
type accountStore struct {
	*Cache
	account *account
	ctx     context.Context // of the reflector: what it says later is old
}

// Add takes the account as it is now.
func (s accountStore) Add(o any) error {
	s.setAccount([]any{o})
	return nil
}

// Update takes the account as it is now.
func (s accountStore) Update(o any) error { return s.Add(o) }

// Delete notes that the account does not exist.
func (s accountStore) Delete(any) error {
	s.setAccount(nil)
	return nil
}

// Replace takes the answer to a list: the account, or nothing.
func (s accountStore) Replace(list []any, _ string) error {
	s.setAccount(list)
	return nil
}

// Resync is never asked for.
func (s accountStore) Resync() error { return nil }

// setAccount takes what the API says of an account and works out its pods
// again if that is news. It takes the lock.
func (s accountStore) setAccount(objects []any) {
	c, a := s.Cache, s.account
	next := find(objects, a.name)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.accounts[a.name] != a || s.ctx.Err() != nil {
		return // its watch has ended
	}
	if deleted := next == nil && a.object != nil && len(a.users) > 0; deleted {
		c.keepDeleted(a)
		next = a.object
	} else {
		a.deleted = false
	}
	known := a.synced || a.object != nil
	same := equal(a.object, next)
	if known && !same {
		a.changed = c.clock.Now()
	}
	if !a.synced || !same {
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

// keepDeleted notes that an account was deleted whose pods still run: they stay
// who they were. No further ones can be made without it.
func (c *Cache) keepDeleted(a *account) {
	if !a.deleted {
		c.log.Info("a service account was deleted while pods use it; they keep their identity until they end",
			"namespace", a.name.Namespace, "service_account", a.name.Name)
	}
	a.deleted = true
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
			"annotation", workload.IdentitiesAnnotation, "namespace", a.name.Namespace,
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
