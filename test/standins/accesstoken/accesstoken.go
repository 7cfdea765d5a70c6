// Package accesstoken has the shape of an Entra access token (version 1.0, as
// managed identities get it). The stand-ins for Entra and IMDS issue it, the
// one for Key Vault and tests read it; nothing here signs or verifies.
package accesstoken

import "time"

// skew is how far before its issue a token becomes valid, as Entra does it for
// clocks that are behind.
const skew = 5 * time.Minute

// Identity is the managed identity that a token stands for.
type Identity struct {
	TenantID   string
	ClientID   string
	ObjectID   string
	ResourceID string // ARM id; empty: the token does not have the claim
}

// Claims are a token's claims; times are Unix seconds.
// https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference
type Claims struct {
	Audience         string `json:"aud"`
	Issuer           string `json:"iss"`
	IssuedAt         int64  `json:"iat"`
	NotBefore        int64  `json:"nbf"`
	Expiry           int64  `json:"exp"`
	AppID            string `json:"appid"`
	AppIDACR         string `json:"appidacr"` // "2": the client proved itself by a signed assertion or certificate
	IdentityProvider string `json:"idp"`
	IDType           string `json:"idtyp"`
	ObjectID         string `json:"oid"`
	Subject          string `json:"sub"`
	TenantID         string `json:"tid"`
	Version          string `json:"ver"`
	ResourceID       string `json:"xms_mirid,omitempty"`
}

// New returns the claims of a token for audience that is good for lifetime
// from now on.
func New(id Identity, audience string, now time.Time, lifetime time.Duration) Claims {
	issuer := IssuerOf(id.TenantID)
	return Claims{
		Audience:         audience,
		Issuer:           issuer,
		IssuedAt:         now.Add(-skew).Unix(),
		NotBefore:        now.Add(-skew).Unix(),
		Expiry:           now.Add(lifetime).Unix(),
		AppID:            id.ClientID,
		AppIDACR:         "2",
		IdentityProvider: issuer,
		IDType:           "app",
		ObjectID:         id.ObjectID,
		Subject:          id.ObjectID,
		TenantID:         id.TenantID,
		Version:          "1.0",
		ResourceID:       id.ResourceID,
	}
}

// IssuerOf returns the issuer of a tenant's tokens.
func IssuerOf(tenantID string) string { return "https://sts.windows.net/" + tenantID + "/" }
