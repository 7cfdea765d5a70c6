package convert

import (
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

// identity is an AzureIdentity that was found good.
type identity struct {
	types.NamespacedName
	application bool // an app registration, and no managed identity
	namespaced  bool
	clientID    string
	tenantID    string
	principalID string
	resource    resourceID
	// unsupported says that its region has no federated credentials.
	unsupported bool
}

// resourceID is the ARM id of a managed identity. The zero value is none.
type resourceID struct{ id, subscription, group, name string }

// behavior is the annotation that keeps an identity to pods of its namespace.
const behavior, behaviorNamespaced = group + "/Behavior", "namespaced"

var (
	guid   = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	tenant = regexp.MustCompile(`^[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*$`) // a GUID or a domain
	arm    = regexp.MustCompile(`(?i)^/subscriptions/([0-9a-f-]{36})/resourceGroups/([\w.()-]{1,90})` +
		`/providers/Microsoft\.ManagedIdentity/userAssignedIdentities/([\w-]{1,128})$`)
)

func parseResourceID(s string) (resourceID, bool) {
	m := arm.FindStringSubmatch(s)
	if m == nil {
		return resourceID{}, false
	}
	return resourceID{s, m[1], m[2], m[3]}, true
}

func (c *converter) readIdentities() {
	c.identities = map[types.NamespacedName]*identity{}
	for _, name := range sorted(c.Objects.identities) {
		if id := c.readIdentity(name, c.Objects.identities[name]); id != nil {
			c.identities[name] = id
		}
	}
}

// readIdentity returns nil, after a warning, for one that nothing can be made
// of.
func (c *converter) readIdentity(name types.NamespacedName, o azureIdentity) *identity {
	id := &identity{
		NamespacedName: name, clientID: o.Spec.ClientID, tenantID: o.Spec.TenantID,
		namespaced: c.Namespaced || o.Annotations[behavior] == behaviorNamespaced,
	}
	switch o.Spec.Type {
	case typeManagedIdentity:
		c.readManaged(id, o.Spec.ResourceID)
	case typeServicePrincipal, typeCertificate:
		id.application = true
		c.warn("AzureIdentity %s is of type %d, a service principal and no managed identity: the federated credential "+
			"goes to its app registration (az ad app); once it works, remove its password or certificate and the Secret", name, o.Spec.Type)
	default:
		c.warn("AzureIdentity %s is of type %d, which is not known: left out", name, o.Spec.Type)
		return nil
	}
	if !guid.MatchString(id.clientID) {
		c.warn("AzureIdentity %s: client id %q is no GUID: left out", name, id.clientID)
		return nil
	}
	if id.tenantID != "" && !tenant.MatchString(id.tenantID) {
		c.warn("AzureIdentity %s: tenant %q is neither a GUID nor a domain: the agent's --tenant-id will hold", name, id.tenantID)
		id.tenantID = ""
	}
	if len(o.Spec.AuxiliaryTenantIDs) > 0 {
		c.warn("AzureIdentity %s has auxiliary tenants: a service account has one tenant, give each other one an account of its own", name)
	}
	return id
}

// readManaged completes a managed identity by what Azure says of it.
func (c *converter) readManaged(id *identity, resource string) {
	var ok bool
	if id.resource, ok = parseResourceID(resource); !ok {
		c.warn("AzureIdentity %s: resource id %q is not that of a user-assigned managed identity", id.NamespacedName, resource)
	}
	m := c.findManaged(id)
	if m == nil {
		if c.managedSet {
			c.warn("AzureIdentity %s is not among Azure's managed identities as given: does it still exist, in this subscription?", id.NamespacedName)
		}
		return
	}
	if id.clientID != "" && !strings.EqualFold(id.clientID, m.ClientID) {
		c.warn("AzureIdentity %s has client id %q, Azure has %q for its resource id: Azure's is taken", id.NamespacedName, id.clientID, m.ClientID)
	}
	id.clientID = m.ClientID
	if id.tenantID == "" {
		id.tenantID = m.TenantID
	}
	if guid.MatchString(m.PrincipalID) {
		id.principalID = m.PrincipalID
	}
	if !ok {
		id.resource, _ = parseResourceID(m.ID)
	}
	c.checkRegion(id, m.Location)
}

// findManaged goes by the resource id, and by the client id where there is none.
func (c *converter) findManaged(id *identity) *managedIdentity {
	for i, m := range c.managed {
		byID := id.resource.id != "" && strings.EqualFold(m.ID, id.resource.id)
		byClient := id.resource.id == "" && strings.EqualFold(m.ClientID, id.clientID)
		if byID || byClient {
			return &c.managed[i]
		}
	}
	return nil
}

func (c *converter) checkRegion(id *identity, location string) {
	for _, region := range c.UnsupportedRegions {
		if regionName(region) == regionName(location) {
			id.unsupported = true
			c.warn("AzureIdentity %s lies in %s, where managed identities cannot have federated credentials: "+
				"make one in another region and give it the same role assignments", id.NamespacedName, regionName(region))
		}
	}
}

// regionName returns "Malaysia South" as the API spells it: malaysiasouth.
func regionName(s string) string {
	return strings.ToLower(strings.ReplaceAll(s, " ", ""))
}

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
