package convert

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

// bindingLabel is the pod label whose value bindings select.
const bindingLabel = "aadpodidbinding"

// binding is an AzureIdentityBinding with the identity that it names. Names
// lead to the binding's own namespace and no other.
type binding struct {
	types.NamespacedName
	selector string
	identity *identity
}

func (c *converter) readBindings() {
	used := map[*identity]bool{}
	for _, name := range sorted(c.bindings) {
		spec := c.bindings[name].Spec
		if spec.Selector == "" || len(validation.IsValidLabelValue(spec.Selector)) > 0 {
			c.warn("AzureIdentityBinding %s: selector %q is no label value: it matched no pod, left out", name, spec.Selector)
			continue
		}
		target := types.NamespacedName{Namespace: name.Namespace, Name: spec.AzureIdentity}
		id := c.identities[target]
		if id == nil {
			c.warnNoIdentity(name, target)
			continue
		}
		used[id] = true
		c.bound = append(c.bound, binding{name, spec.Selector, id})
	}
	for _, name := range sorted(c.identities) {
		if !used[c.identities[name]] {
			c.warn("AzureIdentity %s is selected by no AzureIdentityBinding: left out", name)
		}
	}
}

func (c *converter) warnNoIdentity(name, target types.NamespacedName) {
	if _, ok := c.Objects.identities[target]; ok {
		c.warn("AzureIdentityBinding %s selects an AzureIdentity that was left out: left out too", name)
		return
	}
	c.warn("AzureIdentityBinding %s selects AzureIdentity %q, which its namespace does not have: left out", name, target.Name)
}

// selected returns the identities that pods of the namespace got by the label's
// value, compared with case, without repeats. Those of the pods' own namespace
// come first: the default of aad-pod-identity's managed mode is among them.
func (c *converter) selected(selector, namespace string) []*identity {
	var own, others []*identity
	for _, b := range c.bound {
		switch {
		case b.selector != selector:
		case b.Namespace == namespace:
			own = appendIdentity(own, b.identity)
		case !b.identity.namespaced:
			others = appendIdentity(others, b.identity)
		}
	}
	for _, id := range others {
		own = appendIdentity(own, id)
	}
	return own
}

// sameClient reports whether two AzureIdentity objects are for one client.
func sameClient(a, b *identity) bool { return strings.EqualFold(a.clientID, b.clientID) }

// appendIdentity leaves out a second AzureIdentity for the same client.
func appendIdentity(to []*identity, id *identity) []*identity {
	same := func(other *identity) bool { return sameClient(other, id) }
	if slices.ContainsFunc(to, same) {
		return to
	}
	return append(to, id)
}

// selectors returns each value that bindings select, once and sorted.
func (c *converter) selectors() []string {
	var all []string
	for _, b := range c.bound {
		all = append(all, b.selector)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
