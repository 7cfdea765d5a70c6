package convert

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sidestep-agent/sidestep/pkg/commands"
)

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
