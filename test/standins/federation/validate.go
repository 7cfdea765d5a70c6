package federation

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// maxCredentials is how many federated credentials Entra allows an identity.
// https://learn.microsoft.com/entra/workload-id/workload-identity-federation-considerations
const maxCredentials = 20

var (
	// errTooManyCredentials means that the identity has as many federated
	// credentials as it may have.
	errTooManyCredentials = errors.New("A maximum of 20 federated identity credentials can be added to an application or user-assigned managed identity.") //nolint:staticcheck,revive // Entra's words
	// errDuplicateCredential means that the identity has a credential for that
	// issuer and subject.
	errDuplicateCredential = errors.New("The combination of issuer and subject must be unique on the app.") //nolint:staticcheck,revive // Entra's words
)

var guid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

func (f File) validate() error {
	for _, t := range f.Tenants {
		if !guid.MatchString(t) {
			return fmt.Errorf("tenant %q is not a GUID in lower case", t)
		}
	}
	for _, r := range f.Resources {
		if r == "" || strings.HasSuffix(r, "/") {
			return fmt.Errorf("resource %q: write it without a slash at its end", r)
		}
	}
	if err := f.validateIdentities(); err != nil {
		return err
	}
	return f.validateVaults()
}

func (f File) validateIdentities() error {
	n := f.NodeIdentity
	if err := f.validateIDs(n.TenantID, n.ClientID, n.PrincipalID); err != nil {
		return fmt.Errorf("nodeIdentity: %w", err)
	}
	// Two identities that share an id could not be distinguished in a log.
	owner := map[string]string{n.ClientID: "nodeIdentity", n.PrincipalID: "nodeIdentity"}
	for _, i := range f.Identities {
		if err := i.validate(f); err != nil {
			return fmt.Errorf("identity %q: %w", i.Name, err)
		}
		for _, id := range []string{i.ClientID, i.PrincipalID} {
			if other, taken := owner[id]; taken {
				return fmt.Errorf("identity %q: %s is %s's already", i.Name, id, other)
			}
			owner[id] = i.Name
		}
	}
	return nil
}

func (i Identity) validate(f File) error {
	if err := f.validateIDs(i.TenantID, i.ClientID, i.PrincipalID); err != nil {
		return err
	}
	if !strings.HasPrefix(i.ResourceID, "/subscriptions/") {
		return fmt.Errorf("resourceId %q is not an ARM id", i.ResourceID)
	}
	if len(i.FederatedCredentials) > maxCredentials {
		return errTooManyCredentials
	}
	for n, c := range i.FederatedCredentials {
		if err := c.validate(); err != nil {
			return err
		}
		if slices.ContainsFunc(i.FederatedCredentials[:n], c.sameAs) {
			return fmt.Errorf("%q: %w", c.Subject, errDuplicateCredential)
		}
	}
	return nil
}

func (f File) validateIDs(tenantID, clientID, principalID string) error {
	if !f.HasTenant(tenantID) {
		return fmt.Errorf("tenantId %q is not among the tenants", tenantID)
	}
	for _, id := range []string{clientID, principalID} {
		if !guid.MatchString(id) {
			return fmt.Errorf("%q is not a GUID in lower case", id)
		}
	}
	return nil
}

func (c Credential) validate() error {
	issuer, err := url.Parse(c.Issuer)
	if err != nil || issuer.Scheme != "https" || issuer.Host == "" {
		return fmt.Errorf("issuer %q is not an https URL", c.Issuer)
	}
	if c.Subject == "" {
		return errors.New("a federated credential has no subject")
	}
	return nil
}

func (c Credential) sameAs(other Credential) bool {
	return c.Issuer == other.Issuer && c.Subject == other.Subject
}

func (f File) validateVaults() error {
	for _, v := range f.Vaults {
		if !f.HasTenant(v.TenantID) {
			return fmt.Errorf("vault %q: tenantId %q is not among the tenants", v.Name, v.TenantID)
		}
		for _, p := range v.Permissions {
			if !guid.MatchString(p.PrincipalID) {
				return fmt.Errorf("vault %q: %q is not a GUID in lower case", v.Name, p.PrincipalID)
			}
			for _, action := range p.Secrets {
				if !slices.Contains([]SecretsAction{Get, Set, Delete}, action) {
					return fmt.Errorf("vault %q: %q is none of get, set, delete", v.Name, action)
				}
			}
		}
	}
	return nil
}
