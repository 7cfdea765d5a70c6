package convert

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sidestep-agent/sidestep/pkg/config"
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

// account is a service account that is to get its own identities.
type account struct {
	namespace, name string
	filledIn        bool   // false: namespace or name is a placeholder
	owner           owner  // whose pods alone are to run as it; zero: those that do
	replaces        string // the shared account that the owner's pods run as now
	selectors       []string
	identities      []*identity // the first is the default
}

func (a *account) subject() string {
	return "system:serviceaccount:" + a.namespace + ":" + a.name
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
