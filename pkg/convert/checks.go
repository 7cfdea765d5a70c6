package convert

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// maxCredentials is how many federated credentials Entra lets a managed
// identity or an app registration have.
const maxCredentials = 20

// checkSelectors warns of what aad-pod-identity left to chance or to everyone.
func (c *converter) checkSelectors() {
	for _, name := range sorted(c.identities) {
		c.checkNamespaced(c.identities[name])
	}
	for _, selector := range c.selectors() {
		c.checkBindings(selector)
	}
	for _, a := range c.plan.accounts {
		c.checkAccount(a)
	}
}

// checkNamespaced warns of an identity that any namespace could use.
func (c *converter) checkNamespaced(id *identity) {
	bound := slices.ContainsFunc(c.bound, func(b binding) bool { return b.identity == id })
	if id.namespaced || !bound {
		return
	}
	now := "which namespaces do is not known without their pods"
	if c.podsKnown {
		now = "no other does now"
		if places := c.places(id); len(places) > 0 {
			now = "these do now: " + strings.Join(places, ", ") + ": remove what should not"
		}
	}
	c.warn("AzureIdentity %s has no annotation %s=%s: pods of every namespace could use it; %s",
		id.NamespacedName, behavior, behaviorNamespaced, now)
}

// checkBindings warns where several identities answer to one selector.
func (c *converter) checkBindings(selector string) {
	var names []string
	var identities []*identity
	for _, b := range c.bound {
		if b.selector == selector {
			names = append(names, b.String())
			identities = appendIdentity(identities, b.identity)
		}
	}
	if len(identities) < 2 {
		return
	}
	c.warn("selector %s is that of bindings %s: an application that named no client id got the one aad-pod-identity listed first "+
		"(their weight was not read); here it gets "+workload.ClientIDAnnotation+", the first by namespace and name: check that it is the right one",
		selector, strings.Join(names, ", "))
}

// checkAccount warns of what one service account cannot keep apart.
func (c *converter) checkAccount(a *account) {
	if a.filledIn && a.name == "default" {
		c.warn("service account %s/default is that of every pod which names none: any of them could have its identity; "+
			"give the workload a service account of its own", a.namespace)
	}
	for _, id := range a.identities[1:] {
		if id.tenantID != a.identities[0].tenantID {
			c.warn("service account %s/%s needs identities of several tenants, and has one: %s will not work", a.namespace, a.name, id.NamespacedName)
		}
	}
}

// checkLimits counts the federated credentials that each client is to get.
func (c *converter) checkLimits() {
	count := map[string]int{}
	open := map[string]bool{}
	clients := map[string]*identity{}
	var order []types.NamespacedName
	for _, a := range c.plan.accounts {
		for _, id := range a.identities {
			key := strings.ToLower(id.clientID)
			if clients[key] == nil {
				clients[key] = id
				order = append(order, id.NamespacedName)
			}
			count[key]++
			open[key] = open[key] || !a.filledIn
		}
	}
	for _, name := range order {
		id := c.identities[name]
		key := strings.ToLower(id.clientID)
		if count[key] > maxCredentials {
			c.warn("AzureIdentity %s would have %d federated credentials, and %d is the most that Entra takes: "+
				"share service accounts, or spread the pods over more identities", name, count[key], maxCredentials)
		}
		c.plan.limits = append(c.plan.limits, limitComment(id, count[key], open[key]))
	}
}

// limitComment names what is new and how to see what is there already.
func limitComment(id *identity, count int, open bool) string {
	more := ""
	if open {
		more = " or more, by what is filled in,"
	}
	return fmt.Sprintf("%s: %d%s of at most %d; those it has already: %s", id.NamespacedName, count, more, maxCredentials, id.countCommand())
}
