package federation

import (
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// DefaultAudience is what a federated credential expects in an assertion that
// names no other audience.
const DefaultAudience = "api://AzureADTokenExchange"

// File is the content of a federation file.
type File struct {
	// Issuer is the issuer of the cluster's service account tokens; it holds
	// for each credential that does not name its own.
	Issuer       string       `json:"issuer"`
	Tenants      []string     `json:"tenants"`
	Resources    []string     `json:"resources"` // what tokens can be had for besides Microsoft's own resources, with no slash at the end
	NodeIdentity NodeIdentity `json:"nodeIdentity"`
	Identities   []Identity   `json:"identities"`
	Vaults       []Vault      `json:"vaults"`
}

// NodeIdentity is the identity that the VM itself has in its IMDS.
type NodeIdentity struct {
	TenantID    string `json:"tenantId"`
	ClientID    string `json:"clientId"`
	PrincipalID string `json:"principalId"`
	ResourceID  string `json:"resourceId"`
}

// Identity is a user-assigned managed identity.
type Identity struct {
	Name                 string       `json:"name"`
	TenantID             string       `json:"tenantId"`
	ClientID             string       `json:"clientId"`
	PrincipalID          string       `json:"principalId"` // the object id
	ResourceID           string       `json:"resourceId"`
	FederatedCredentials []Credential `json:"federatedCredentials"`
}

// Credential lets the bearer of an assertion act as an identity. All three
// are compared as they are written.
type Credential struct {
	Subject  string `json:"subject"`
	Issuer   string `json:"issuer,omitempty"`   // empty in a file: the file's
	Audience string `json:"audience,omitempty"` // empty in a file: DefaultAudience
}

// Vault says who may do what with a vault's secrets.
type Vault struct {
	Name        string       `json:"name"`
	TenantID    string       `json:"tenantId"`
	Permissions []Permission `json:"permissions"`
}

// Permission is one entry of a vault's access policy.
type Permission struct {
	PrincipalID string          `json:"principalId"`
	Secrets     []SecretsAction `json:"secrets"`
}

// SecretsAction is what a vault's access policy can allow.
type SecretsAction string

// The actions on secrets, in Key Vault's names.
const (
	Get    SecretsAction = "get"
	Set    SecretsAction = "set"
	Delete SecretsAction = "delete"
)

// Parse reads a federation file. Fields that it does not know are errors, as
// is anything that Entra would refuse. Each credential of the result has its
// issuer and audience.
func Parse(text []byte) (File, error) {
	var f File
	if err := yaml.UnmarshalStrict(text, &f); err != nil {
		return File{}, fmt.Errorf("federation file: %w", err)
	}
	return f.normalized()
}

// normalized returns a copy with defaults filled in that shares no credential
// with f.
func (f File) normalized() (File, error) {
	f.Identities = slices.Clone(f.Identities)
	for i := range f.Identities {
		credentials := slices.Clone(f.Identities[i].FederatedCredentials)
		for j := range credentials {
			credentials[j] = f.withDefaults(credentials[j])
		}
		f.Identities[i].FederatedCredentials = credentials
	}
	if err := f.validate(); err != nil {
		return File{}, fmt.Errorf("federation file: %w", err)
	}
	return f, nil
}

func (f File) withDefaults(c Credential) Credential {
	if c.Issuer == "" {
		c.Issuer = f.Issuer
	}
	if c.Audience == "" {
		c.Audience = DefaultAudience
	}
	return c
}

// HasTenant reports whether there is a tenant by that id, in any case.
func (f File) HasTenant(id string) bool {
	return slices.ContainsFunc(f.Tenants, func(t string) bool { return strings.EqualFold(t, id) })
}

// Identity returns the identity of a client in a tenant.
func (f File) Identity(tenantID, clientID string) (Identity, bool) {
	i := slices.IndexFunc(f.Identities, func(i Identity) bool {
		return strings.EqualFold(i.TenantID, tenantID) && strings.EqualFold(i.ClientID, clientID)
	})
	if i < 0 {
		return Identity{}, false
	}
	return f.Identities[i], true
}

// Vault returns the vault by that name.
func (f File) Vault(name string) (Vault, bool) {
	i := slices.IndexFunc(f.Vaults, func(v Vault) bool { return v.Name == name })
	if i < 0 {
		return Vault{}, false
	}
	return f.Vaults[i], true
}

// Allows reports whether the vault's access policy lets an object id do
// action.
func (v Vault) Allows(principalID string, action SecretsAction) bool {
	return slices.ContainsFunc(v.Permissions, func(p Permission) bool {
		return strings.EqualFold(p.PrincipalID, principalID) && slices.Contains(p.Secrets, action)
	})
}
