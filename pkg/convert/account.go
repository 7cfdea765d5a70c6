package convert

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sidestep-agent/sidestep/pkg/commands"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

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

// ErrSharedAccount is wrapped by the error about a service account whose pods
// had different identities and that cannot be split by commands: converting it
// would give one workload the identity of another.
var ErrSharedAccount = errors.New("pods of one service account had different identities")

// split returns an account for each owner of the pods of a shared one.
func (c *converter) split(shared types.NamespacedName, uses []use) ([]*account, error) {
	if err := checkSplit(shared, uses); err != nil {
		return nil, err
	}
	var accounts []*account
	for _, u := range uses {
		for _, o := range u.owners {
			name, err := c.newName(o, accounts)
			if err != nil {
				return nil, err
			}
			accounts = append(accounts, &account{
				namespace: shared.Namespace, name: name, filledIn: true, owner: o, replaces: shared.Name,
				selectors: []string{u.selector}, identities: u.identities,
			})
		}
	}
	c.warn("service account %s runs pods of selectors %s, which had different identities: each workload gets a service account of its own. "+
		"Give these what the pods need of %s: its imagePullSecrets, and RoleBindings like those that name it", shared, selectorsOf(uses), shared)
	return accounts, nil
}

// checkSplit returns ErrSharedAccount for pods that no patch of a template
// moves to another account, and for a template whose pods had two selectors.
func checkSplit(shared types.NamespacedName, uses []use) error {
	var problems []string
	seen := map[owner]string{}
	for _, u := range uses {
		for _, o := range u.owners {
			if other, ok := seen[o]; ok {
				problems = append(problems, fmt.Sprintf("%s has pods of both %s and %s", o, other, u.selector))
			}
			seen[o] = u.selector
			if _, ok := commands.LabelPods(o.namespace, o.kind, o.name); !ok {
				problems = append(problems, fmt.Sprintf("%s (%s) has no template that can be patched", o, u.selector))
			}
		}
	}
	if len(problems) == 0 {
		return nil
	}
	return fmt.Errorf("%w: service account %s, selectors %s: %s: set serviceAccountName, another for each selector, "+
		"in the templates behind them, and print the pods again", ErrSharedAccount, shared, selectorsOf(uses), strings.Join(problems, "; "))
}

func selectorsOf(uses []use) string {
	names := make([]string, len(uses))
	for i, u := range uses {
		names[i] = u.selector
	}
	return strings.Join(names, ", ")
}

// newName returns a name for the owner's account that no pod of the namespace
// runs as and none of the others has.
func (c *converter) newName(o owner, others []*account) (string, error) {
	for _, name := range []string{o.name + "-identity", o.name + "-" + o.kind + "-identity"} {
		taken := slices.ContainsFunc(others, func(a *account) bool { return a.name == name }) ||
			c.runsAs(types.NamespacedName{Namespace: o.namespace, Name: name})
		if !taken && len(validation.IsDNS1123Subdomain(name)) == 0 {
			return name, nil
		}
	}
	return "", fmt.Errorf("%w: no name is free for the service account of %s: give its pods one of their own, and print the pods again", ErrSharedAccount, o)
}

// runsAs reports whether some pod runs as the service account.
func (c *converter) runsAs(account types.NamespacedName) bool {
	for name := range c.pods {
		pod := c.pods[name]
		if of, _ := accountOf(&pod); of == account {
			return true
		}
	}
	return false
}

// owner is what has the template of pods.
type owner struct{ namespace, kind, name string }

func (o owner) String() string {
	return fmt.Sprintf("%s %s of namespace %s", o.kind, o.name, o.namespace)
}

// labelChange is a workload whose pods need the label.
type labelChange struct {
	owner
	selector string // where the owner is not known
	account  string // the service account that its pods are to run as; empty: as they do
}

// command returns the one that labels the pods, or what to do by hand as false.
func (l labelChange) command() (string, bool) {
	command, ok := commands.LabelPods(l.namespace, l.kind, l.name)
	if l.account != "" {
		command, ok = commands.LabelPodsAs(l.namespace, l.kind, l.name, l.account)
	}
	if ok {
		return command, true
	}
	switch l.kind {
	case "pod":
		return l.String() + ": create it again with the label " + workload.UseLabel + `: "true"`, false
	case "job":
		return l.String() + ": its template cannot be changed; label that of the CronJob or program that makes it: " + workload.UseLabel + `: "true"`, false
	case "":
		return "pods labelled " + bindingLabel + "=" + l.selector + ": label their template: " + workload.UseLabel + `: "true"`, false
	}
	return l.String() + ": label its pod template: " + workload.UseLabel + `: "true"`, false
}

// findLabels finds the workloads behind the pods that are to get identities.
func (c *converter) findLabels() {
	for _, name := range sorted(c.pods) {
		pod := c.pods[name]
		a := c.accountFor(&pod)
		if a == nil || pod.Labels[workload.UseLabel] == "true" && a.replaces == "" {
			continue
		}
		change := labelChange{owner: ownerOf(&pod.ObjectMeta)}
		if a.replaces != "" {
			change.account = a.name
		}
		if !slices.Contains(c.plan.labels, change) {
			c.plan.labels = append(c.plan.labels, change)
		}
	}
	for _, a := range c.plan.accounts {
		if change := (labelChange{selector: a.selectors[0]}); !a.filledIn && !slices.Contains(c.plan.labels, change) {
			c.plan.labels = append(c.plan.labels, change)
		}
	}
}

// accountFor returns the account that the pod is to run as; nil if it gets no
// identity.
func (c *converter) accountFor(pod *corev1.Pod) *account {
	name, ok := accountOf(pod)
	if !ok {
		return nil
	}
	i := slices.IndexFunc(c.plan.accounts, func(a *account) bool {
		if a.namespace != name.Namespace || !slices.Contains(a.selectors, pod.Labels[bindingLabel]) {
			return false
		}
		if a.replaces != "" {
			return a.replaces == name.Name && a.owner == ownerOf(&pod.ObjectMeta)
		}
		return a.name == name.Name
	})
	if i < 0 {
		return nil
	}
	return c.plan.accounts[i]
}

// ownerOf returns what has the pod's template. A ReplicaSet of a Deployment is
// called after it and the pods' template hash.
func ownerOf(pod *metav1.ObjectMeta) owner {
	o := owner{namespace: pod.Namespace, kind: "pod", name: pod.Name}
	ref := metav1.GetControllerOf(pod)
	if ref == nil || len(validation.IsDNS1123Subdomain(ref.Name)) > 0 || len(validation.IsDNS1123Label(strings.ToLower(ref.Kind))) > 0 {
		return o
	}
	o.kind, o.name = strings.ToLower(ref.Kind), ref.Name
	if hash := pod.Labels["pod-template-hash"]; o.kind == "replicaset" && hash != "" {
		if name, ok := strings.CutSuffix(ref.Name, "-"+hash); ok {
			o.kind, o.name = "deployment", name
		}
	}
	return o
}
