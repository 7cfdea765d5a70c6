package convert

import (
	"errors"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

// findAccounts finds who used which selector. What no pod tells gets a
// placeholder. It returns ErrSharedAccount for each account that cannot be
// split though its pods had different identities.
func (c *converter) findAccounts() error {
	var refusals []error
	uses := c.uses()
	for _, name := range sorted(uses) {
		accounts, err := c.accountsFor(name, uses[name])
		refusals = append(refusals, err)
		c.plan.accounts = append(c.plan.accounts, accounts...)
	}
	for _, selector := range c.selectors() {
		if !c.isUsed(selector) {
			c.addPlaceholders(selector)
		}
	}
	return errors.Join(refusals...)
}

// use is one selector among the pods of a service account: what it gave them,
// and what has their templates.
type use struct {
	selector   string
	identities []*identity
	owners     []owner
}

// accountsFor returns the accounts that replace what pods of one service
// account had: itself, or one for each owner where the pods had different
// identities, since an identity belongs to all pods of a service account.
func (c *converter) accountsFor(name types.NamespacedName, uses []use) ([]*account, error) {
	uses = slices.DeleteFunc(uses, func(u use) bool {
		if len(u.identities) == 0 {
			c.warn("pods of %s are labelled %s=%s, which no binding gives them an identity for: left out", name, bindingLabel, u.selector)
		}
		return len(u.identities) == 0
	})
	if len(uses) == 0 {
		return nil, nil
	}
	a := &account{namespace: name.Namespace, name: name.Name, filledIn: true, identities: uses[0].identities}
	for _, u := range uses {
		if !slices.EqualFunc(u.identities, a.identities, sameClient) {
			return c.split(name, uses)
		}
		a.selectors = append(a.selectors, u.selector)
	}
	return []*account{a}, nil
}

// uses returns the selectors of the pods of each service account, sorted.
func (c *converter) uses() map[types.NamespacedName][]use {
	uses := map[types.NamespacedName][]use{}
	for _, name := range sorted(c.pods) {
		pod := c.pods[name]
		selector := pod.Labels[bindingLabel]
		if selector == "" {
			continue
		}
		account, ok := accountOf(&pod)
		if !ok || len(validation.IsValidLabelValue(selector)) > 0 {
			c.warn("pod %s: label %s=%q or service account %q is no name: left out", name, bindingLabel, selector, account.Name)
			continue
		}
		i := slices.IndexFunc(uses[account], func(u use) bool { return u.selector == selector })
		if i < 0 {
			i = len(uses[account])
			uses[account] = append(uses[account], use{selector: selector, identities: c.selected(selector, account.Namespace)})
		}
		u := &uses[account][i]
		if o := ownerOf(&pod.ObjectMeta); !slices.Contains(u.owners, o) {
			u.owners = append(u.owners, o)
		}
	}
	for _, of := range uses {
		slices.SortFunc(of, func(a, b use) int { return strings.Compare(a.selector, b.selector) })
	}
	return uses
}

// accountOf returns the service account that the pod runs as, and whether its
// name may be one.
func accountOf(pod *corev1.Pod) (types.NamespacedName, bool) {
	name := pod.Spec.ServiceAccountName
	if name == "" {
		name = "default"
	}
	return types.NamespacedName{Namespace: pod.Namespace, Name: name}, len(validation.IsDNS1123Subdomain(name)) == 0
}

func (c *converter) isUsed(selector string) bool {
	return slices.ContainsFunc(c.plan.accounts, func(a *account) bool {
		return slices.Contains(a.selectors, selector)
	})
}

// anyNamespace stands for that of pods that may be anywhere. No namespace is
// called so, and the API server takes no object with it.
const anyNamespace = "<namespace>"

// addPlaceholders adds, for a selector whose pods are not known, an account to
// fill in: one for each namespace that a namespaced identity keeps it to, and
// one for all others.
func (c *converter) addPlaceholders(selector string) {
	var namespaces []string
	for _, b := range c.bound {
		namespace := anyNamespace
		if b.identity.namespaced {
			namespace = b.Namespace
		}
		if b.selector == selector && !slices.Contains(namespaces, namespace) {
			namespaces = append(namespaces, namespace)
		}
	}
	if c.podsKnown {
		c.warn("no pod is labelled %s=%s now: fill in who will be (CronJobs, workloads scaled to 0), or remove its placeholder", bindingLabel, selector)
	}
	for _, namespace := range namespaces {
		c.plan.accounts = append(c.plan.accounts, &account{
			namespace: namespace, name: "<service-account-of-" + selector + ">",
			selectors: []string{selector}, identities: c.selected(selector, namespace),
		})
	}
}

// places returns the namespaces, apart from the identity's own, whose accounts
// are to get it.
func (c *converter) places(id *identity) []string {
	var found []string
	for _, a := range c.plan.accounts {
		if a.namespace != id.Namespace && slices.Contains(a.identities, id) && !slices.Contains(found, a.namespace) {
			found = append(found, a.namespace)
		}
	}
	slices.SortFunc(found, strings.Compare)
	return found
}
