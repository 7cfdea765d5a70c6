package podcache

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// ErrState is returned by Import for what no Export has written.
var ErrState = errors.New("podcache: not a state of pods")

// Export returns all that the cache knows, without secrets, for an Import in
// StateFormat. It returns nil while the API server has not listed all of it:
// before Ready, and while it is Stale. Equal states are equal bytes.
func (c *Cache) Export() ([]byte, error) {
	s, complete := c.save()
	if !complete {
		return nil, nil
	}
	return json.Marshal(s)
}

// save copies what is known; false if that is not the API server's word.
func (c *Cache) save() (state, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if !c.isReady() || !c.asOf.IsZero() {
		return state{}, false
	}
	var s state
	for _, r := range c.records {
		s.Pods = append(s.Pods, savePod(r))
	}
	for _, a := range c.accounts {
		if len(a.users) > 0 {
			s.Accounts = append(s.Accounts, saveAccount(a))
		}
	}
	if c.exempt != nil {
		s.IdentityExceptions = map[string]map[string]podLabels{}
		for namespace, objects := range c.exempt.objects {
			s.IdentityExceptions[namespace] = maps.Clone(objects)
		}
	}
	slices.SortFunc(s.Pods, func(a, b savedPod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	slices.SortFunc(s.Accounts, func(a, b savedAccount) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return s, true
}

// Import has the cache go by what another exported at the time taken, where
// the API server has not reported it yet. The present rules are applied. Ready
// is closed then, unless AzurePodIdentityException objects are honoured and the
// other did not know them. What the API server tells later takes the place of
// it all: pods that it does not name are gone. After Ready, and after another
// Import, nothing is taken; nor with the error, which is ErrState.
func (c *Cache) Import(exported []byte, taken time.Time) error {
	var s *state
	if err := json.Unmarshal(exported, &s); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	if s == nil {
		return fmt.Errorf("%w: it is null", ErrState)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isReady() || !c.asOf.IsZero() {
		return nil
	}
	if !c.listed {
		c.importPods(s.Pods)
	}
	c.importAccounts(s.Accounts)
	if c.exempt.isAwaited() && s.IdentityExceptions != nil {
		c.exempt.objects, c.exempt.awaited, c.exempt.imported = s.IdentityExceptions, false, true
	}
	c.asOf = taken
	for uid := range c.claims {
		c.compute(uid)
	}
	c.notify()
	c.log.Warn("the API server has not answered: pods and service accounts are as an earlier agent knew them",
		"stale_since", taken, "pods", len(c.records))
	c.checkReady()
	return nil
}

func (c *Cache) importPods(all []savedPod) {
	for _, s := range all {
		c.insert(s.record())
	}
}

// importAccounts takes those that pods use. They are watched once the API
// server has listed the pods.
func (c *Cache) importAccounts(all []savedAccount) {
	for _, s := range all {
		a := c.accounts[types.NamespacedName{Namespace: s.Namespace, Name: s.Name}]
		if a == nil || a.synced {
			continue
		}
		object := s.serviceAccount()
		c.readIdentities(a, object)
		a.object, a.lastLabel, a.changed = object, s.LastLabel, s.Changed
	}
}
