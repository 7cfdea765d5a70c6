package convert

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

// findAccounts finds who used which selector. What no pod tells gets a
// placeholder.
func (c *converter) findAccounts() {
	uses := c.uses()
	for _, name := range sorted(uses) {
		a := &account{namespace: name.Namespace, name: name.Name, filledIn: true}
		for _, selector := range slices.Sorted(maps.Keys(uses[name])) {
			ids := c.selected(selector, name.Namespace)
			if len(ids) == 0 {
				c.warn("pods of %s are labelled %s=%s, which no binding gives them an identity for: left out", name, bindingLabel, selector)
				continue
			}
			a.selectors = append(a.selectors, selector)
			for _, id := range ids {
				a.identities = appendIdentity(a.identities, id)
			}
		}
		if len(a.identities) > 0 {
			c.plan.accounts = append(c.plan.accounts, a)
		}
	}
	for _, selector := range c.selectors() {
		if !c.isUsed(selector) {
			c.addPlaceholders(selector)
		}
	}
}

// uses returns the selectors of the pods of each service account.
func (c *converter) uses() map[types.NamespacedName]map[string]bool {
	uses := map[types.NamespacedName]map[string]bool{}
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
		if uses[account] == nil {
			uses[account] = map[string]bool{}
		}
		uses[account][selector] = true
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
