package convert

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Options say what the objects do not.
type Options struct {
	// Issuer is the cluster's OIDC issuer, character for character as its
	// tokens bear it.
	Issuer string
	// Namespaced says that aad-pod-identity ran with forceNamespaced, so that
	// every identity served the pods of its own namespace only.
	Namespaced bool
	// UnsupportedRegions are regions in which a managed identity cannot have
	// federated credentials, in any spelling of Azure's.
	UnsupportedRegions []string
}

// Plan is what replaces the objects that it was made of.
type Plan struct {
	// Warnings are single lines about what needs a decision. Print has them in
	// its output too.
	Warnings []string

	issuer     string
	accounts   []*account
	labels     []labelChange
	exceptions []exception
	limits     []string // what to check in Azure, as comments
}

// exception is a part of the configuration, with what is to be said of it.
type exception struct {
	config.Exception
	comment string
}

// converter is the work under way.
type converter struct {
	*Objects
	Options
	plan       *Plan
	identities map[types.NamespacedName]*identity
	bound      []binding
}

// New returns the plan for the objects. Its errors are about the issuer, which
// must be an https URL without query or fragment, and ErrSharedAccount.
func New(o *Objects, options Options) (*Plan, error) {
	u, err := url.Parse(options.Issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("issuer %q is not an https URL as the cluster's tokens bear it", options.Issuer)
	}
	c := &converter{Objects: o, Options: options, plan: &Plan{issuer: options.Issuer}}
	for _, kind := range o.ignored {
		c.warn("objects of kind %q were passed over: they are not aad-pod-identity's", kind)
	}
	c.readIdentities()
	if !o.managedSet && len(c.identities) > 0 {
		c.warn("regions were not checked: give what az identity list prints")
	}
	c.readBindings()
	if err := c.findAccounts(); err != nil {
		return nil, err
	}
	c.checkSelectors()
	c.checkLimits()
	c.checkVaults()
	c.findLabels()
	c.convertExceptions()
	return c.plan, nil
}

// warn notes a line. What comes from the objects is quoted by the caller or
// was checked to be a name.
func (c *converter) warn(format string, args ...any) {
	c.plan.Warnings = append(c.plan.Warnings, fmt.Sprintf(format, args...))
}

// sorted returns the objects' names by namespace, then name: the order in which
// aad-pod-identity went through bindings.
func sorted[T any](objects map[types.NamespacedName]T) []types.NamespacedName {
	return slices.SortedFunc(maps.Keys(objects), func(a, b types.NamespacedName) int {
		if n := strings.Compare(a.Namespace, b.Namespace); n != 0 {
			return n
		}
		return strings.Compare(a.Name, b.Name)
	})
}

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

// checkVaults warns of secrets that are mounted through aad-pod-identity.
func (c *converter) checkVaults() {
	mounts := c.mounts()
	for _, name := range sorted(c.classes) {
		class := c.classes[name]
		if !class.usesPodIdentity() {
			continue
		}
		client := "the client id of the pods that mount it"
		if ids := mounts[name]; len(ids) > 0 {
			client = strings.Join(ids, " or ")
		}
		c.warn(`SecretProviderClass %s has usePodIdentity: "true": the Secrets Store CSI driver asks NMI on the node, and its volumes cannot be mounted `+
			`once NMI is removed. Set usePodIdentity to "false" and clientID to %s; the federated credential of the pods' service account serves it too`, name, client)
	}
	for _, name := range sorted(mounts) {
		if _, ok := c.classes[name]; !ok {
			c.warn("SecretProviderClass %s is mounted by pods that use aad-pod-identity, and was not read: add secretproviderclasses to what kubectl get prints", name)
		}
	}
}

// mounts returns the client ids of the pods that mount each SecretProviderClass
// and use aad-pod-identity, sorted.
func (c *converter) mounts() map[types.NamespacedName][]string {
	mounts := map[types.NamespacedName][]string{}
	for _, name := range sorted(c.pods) {
		pod := c.pods[name]
		ids := c.selected(pod.Labels[bindingLabel], pod.Namespace)
		if len(ids) == 0 {
			continue
		}
		for _, class := range mountedClasses(&pod) {
			if !slices.Contains(mounts[class], ids[0].clientID) {
				mounts[class] = append(mounts[class], ids[0].clientID)
				slices.Sort(mounts[class])
			}
		}
	}
	return mounts
}

// convertExceptions makes one entry per label, since any one label exempted a
// pod. The agent's own defaults stay, as a list that is given replaces them.
func (c *converter) convertExceptions() {
	for _, e := range config.Default().Exceptions {
		c.plan.exceptions = append(c.plan.exceptions, exception{e, "the agent's default"})
	}
	for _, name := range sorted(c.exceptions) {
		labels := c.exceptions[name].Spec.PodLabels
		if len(labels) == 0 {
			c.warn("AzurePodIdentityException %s names no labels: it exempted no pod, left out", name)
		}
		for _, key := range slices.Sorted(maps.Keys(labels)) {
			c.convertException(name, key, labels[key])
		}
	}
}

func (c *converter) convertException(name types.NamespacedName, key, value string) {
	if len(validation.IsQualifiedName(key)) > 0 || len(validation.IsValidLabelValue(value)) > 0 {
		c.warn("AzurePodIdentityException %s: %q=%q is no label: it exempted no pod, left out", name, key, value)
		return
	}
	spellings := c.spellings(name.Namespace, key, value)
	e := config.Exception{Namespaces: []string{name.Namespace}, PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{key: value}}}
	if len(spellings) > 1 {
		e.PodSelector = metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: key, Operator: metav1.LabelSelectorOpIn, Values: spellings},
		}}
	}
	c.warnSpellings(name, key, value, spellings)
	if !c.hasException(e) {
		c.plan.exceptions = append(c.plan.exceptions, exception{e, fmt.Sprintf("AzurePodIdentityException %s", name)})
	}
}

// warnSpellings says that a value counted in any case, and here in these alone.
func (c *converter) warnSpellings(name types.NamespacedName, key, value string, spellings []string) {
	switch hasCase := strings.ToLower(value) != strings.ToUpper(value); {
	case !hasCase:
	case !c.podsKnown:
		c.warn("AzurePodIdentityException %s matched %s=%s in any case; here its case counts: add other spellings that pods have", name, key, value)
	case len(spellings) > 1:
		c.warn("AzurePodIdentityException %s matched %s=%s in any case; here only as pods spell it now: %s",
			name, key, value, strings.Join(spellings, ", "))
	}
}

// spellings returns the value and how the namespace's pods spell it otherwise.
func (c *converter) spellings(namespace, key, value string) []string {
	found := []string{value}
	for _, name := range sorted(c.pods) {
		has := c.pods[name].Labels[key]
		if name.Namespace == namespace && strings.EqualFold(has, value) &&
			len(validation.IsValidLabelValue(has)) == 0 && !slices.Contains(found, has) {
			found = append(found, has)
		}
	}
	slices.Sort(found)
	return found
}

func (c *converter) hasException(e config.Exception) bool {
	return slices.ContainsFunc(c.plan.exceptions, func(have exception) bool {
		return slices.Equal(have.Namespaces, e.Namespaces) &&
			metav1.FormatLabelSelector(&have.PodSelector) == metav1.FormatLabelSelector(&e.PodSelector)
	})
}
