package aadsts

import (
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Kind says how long a refusal lasts.
type Kind uint8

const (
	// Permanent lasts until somebody fixes the set-up. Codes that are not in the
	// table are taken for permanent ones.
	Permanent Kind = iota
	// NotYet means that Entra misses something that may have been created a moment ago.
	// Its servers learn of a new object at different times, so the answer
	// differs for some minutes, and now and then later.
	NotYet
	// Transient passes by itself.
	Transient
)

// Whose says what a failure says something about, so that only what shares its
// cause waits for it.
type Whose uint8

const (
	// Client is one client in one tenant at one authority.
	Client Whose = iota
	// Tenant is all clients of the tenant at the authority.
	Tenant
	// Way is the way to the authority. No code says so, since one that comes has
	// come that way: network and TLS do.
	Way
)

// Row is what is known about one code.
type Row struct {
	Code string // as "AADSTS70021"
	// Status and OAuth are the HTTP status and OAuth's name of the error that
	// Entra sends with the code.
	Status int
	OAuth  string
	Kind   Kind
	Whose  Whose
	// Resource: the cause is the resource that was asked for, not the identity.
	Resource bool
	// Summary and Remedy are the last two columns of the table in
	// docs/diagnosis.md.
	Summary, Remedy string

	meaning func(Facts) string // nil: Entra's own words are all there is
	fix     func(Facts) string // a shell command; nil: none fixes it
}

// Lookup returns the row of the code, or false for a code that has none.
func Lookup(code string) (Row, bool) {
	i := slices.IndexFunc(table, func(r Row) bool { return r.Code == code })
	if i < 0 {
		return Row{}, false
	}
	return table[i], true
}

// All returns the rows in the order in which people read them.
func All() iter.Seq[Row] { return slices.Values(table) }

const (
	byCredential = "`az identity federated-credential create`"
	byResource   = "spell it as its owner does; `az ad sp create` installs its application"
	byItself     = "nothing: it passes by itself"
	byIssuer     = "nothing of the workload's: the cluster's issuer must answer Entra"
)

// The codes, as Entra's reference and its users' reports have them.
// https://learn.microsoft.com/entra/identity-platform/reference-error-codes
var table = []Row{
	{
		Code: "AADSTS70021", Status: 400, OAuth: "invalid_request", Kind: NotYet, Whose: Client,
		Summary: "the identity has no federated credential that matches", Remedy: byCredential,
		meaning: func(f Facts) string {
			return fmt.Sprintf("the identity %s has no federated credential for the subject %s of the issuer %s", f.ClientID, f.Subject, f.Issuer)
		}, fix: createCredential,
	}, {
		Code: "AADSTS700213", Status: 401, OAuth: "invalid_client", Kind: NotYet, Whose: Client,
		Summary: "none of its federated credentials is for this subject", Remedy: byCredential,
		meaning: func(f Facts) string {
			return fmt.Sprintf("no federated credential of the identity %s is for the subject %s", f.ClientID, f.Subject)
		}, fix: createCredential,
	}, {
		Code: "AADSTS700211", Status: 401, OAuth: "invalid_client", Kind: NotYet, Whose: Client,
		Summary: "none is for this issuer, character for character: a rebuilt cluster has another one", Remedy: byCredential,
		meaning: func(f Facts) string {
			return fmt.Sprintf("no federated credential of the identity %s is for the issuer %s, character for character", f.ClientID, f.Issuer)
		}, fix: createCredential,
	}, {
		Code: "AADSTS700212", Status: 401, OAuth: "invalid_client", Kind: NotYet, Whose: Client,
		Summary: "the one for this issuer and subject expects another audience", Remedy: "`az identity federated-credential update`",
		meaning: func(f Facts) string {
			return fmt.Sprintf("the federated credential of the identity %s for the subject %s is for another audience than %s", f.ClientID, f.Subject, f.Audience)
		}, fix: updateCredential,
	}, {
		Code: "AADSTS700016", Status: 400, OAuth: "unauthorized_client", Kind: NotYet, Whose: Client,
		Summary: "the client is not in this tenant", Remedy: "the annotation `tenant-id`, by `az identity list`; if that prints nothing, the client id is wrong",
		meaning: func(f Facts) string {
			return fmt.Sprintf("there is no client %s in the tenant %s: one of the two is wrong", f.ClientID, f.Tenant)
		}, fix: annotateTenantOfClient,
	}, {
		Code: "AADSTS7000229", Status: 401, OAuth: "unauthorized_client", Kind: NotYet, Whose: Client,
		Summary: "the client has no service principal in this tenant", Remedy: "`az ad sp create`, for an application registration; a managed identity always has one after a moment",
		meaning: func(f Facts) string {
			return fmt.Sprintf("the client %s has no service principal in the tenant %s", f.ClientID, f.Tenant)
		}, fix: createPrincipal,
	}, {
		Code: "AADSTS50166", Status: 400, OAuth: "invalid_request", Kind: Transient, Whose: Client,
		Summary: "Entra cannot reach the cluster's issuer", Remedy: byIssuer, meaning: issuerUnreachable,
	}, {
		Code: "AADSTS501661", Status: 400, OAuth: "invalid_request", Kind: Transient, Whose: Client,
		Summary: "Entra cannot reach the cluster's issuer", Remedy: byIssuer, meaning: issuerUnreachable,
	}, {
		Code: "AADSTS90061", Status: 400, OAuth: "invalid_request", Kind: Transient, Whose: Client,
		Summary: "Entra cannot reach the cluster's issuer", Remedy: byIssuer, meaning: issuerUnreachable,
	}, {
		Code: "AADSTS700024", Status: 401, OAuth: "invalid_client", Kind: Permanent, Whose: Client,
		Summary: "the service account token is outside its time: a clock is wrong", Remedy: "the node's clock; no `az` command does",
		meaning: func(Facts) string {
			return "the service account token is outside its time for Entra: the clock of the node or of the API server is wrong"
		}, fix: func(Facts) string { return "timedatectl set-ntp true # on the node" },
	}, {
		Code: "AADSTS7000112", Status: 401, OAuth: "unauthorized_client", Kind: Permanent, Whose: Client,
		Summary: "the client is disabled", Remedy: "`az ad sp update`",
		meaning: func(f Facts) string {
			return fmt.Sprintf("the client %s is disabled in the tenant %s", f.ClientID, f.Tenant)
		}, fix: enableClient,
	}, {
		Code: "AADSTS7000215", Status: 401, OAuth: "invalid_client", Kind: Permanent, Whose: Client,
		Summary: "Entra looked for a client secret: the client has no federated credential", Remedy: byCredential,
		meaning: func(f Facts) string {
			return fmt.Sprintf("Entra looked for a client secret, which the agent never sends: the client %s is not set up for federation", f.ClientID)
		}, fix: createCredential,
	}, {
		Code: "AADSTS90002", Status: 400, OAuth: "invalid_request", Kind: Permanent, Whose: Tenant,
		Summary: "there is no such tenant in this cloud", Remedy: "the annotation `tenant-id`, by `az account show`; or the agent's `--cloud`",
		meaning: func(f Facts) string { return fmt.Sprintf("there is no tenant %s in this cloud", f.Tenant) }, fix: annotateOwnTenant,
	}, {
		Code: "AADSTS900023", Status: 400, OAuth: "invalid_request", Kind: Permanent, Whose: Tenant,
		Summary: "the tenant is neither a GUID nor a domain name of Entra's", Remedy: "the annotation `tenant-id`, by `az account show`",
		meaning: func(f Facts) string { return fmt.Sprintf("%s is no name of a tenant", f.Tenant) }, fix: annotateOwnTenant,
	}, {
		Code: "AADSTS50001", Status: 400, OAuth: "invalid_resource", Kind: Permanent, Whose: Client, Resource: true,
		Summary: "the resource is unknown, or disabled", Remedy: byResource, meaning: unknownResource, fix: createResource,
	}, {
		Code: "AADSTS500011", Status: 400, OAuth: "invalid_resource", Kind: Permanent, Whose: Client, Resource: true,
		Summary: "the resource is not in the tenant", Remedy: byResource, meaning: unknownResource, fix: createResource,
	}, {
		Code: "AADSTS70011", Status: 400, OAuth: "invalid_scope", Kind: Permanent, Whose: Client, Resource: true,
		Summary: "the resource makes no valid scope", Remedy: "spell it as its owner does, without `/.default`", meaning: badScope,
	}, {
		Code: "AADSTS1002012", Status: 400, OAuth: "invalid_scope", Kind: Permanent, Whose: Client, Resource: true,
		Summary: "the resource makes no valid scope", Remedy: "spell it as its owner does, without `/.default`", meaning: badScope,
	}, {
		Code: "AADSTS53003", Status: 400, OAuth: "invalid_grant", Kind: Permanent, Whose: Client,
		Summary: "blocked by conditional access", Remedy: "an administrator of the tenant; `az rest` lists the policies",
		meaning: func(f Facts) string {
			return fmt.Sprintf("a conditional access policy of the tenant %s forbids tokens to the client %s from here: its administrator must except it", f.Tenant, f.ClientID)
		}, fix: listPolicies,
	}, {
		Code: "AADSTS50196", Status: 400, OAuth: "invalid_grant", Kind: Transient, Whose: Client,
		Summary: "Entra has seen the same request too often, and pauses the client", Remedy: byItself,
		meaning: func(f Facts) string {
			return fmt.Sprintf("Entra sees the client %s ask for the same again and again, and pauses it for some minutes", f.ClientID)
		},
	}, {
		Code: "AADSTS90024", Status: 429, OAuth: "temporarily_unavailable", Kind: Transient, Whose: Client,
		Summary: "the client has used up what Entra allows it for now", Remedy: byItself,
		meaning: func(f Facts) string {
			return fmt.Sprintf("the client %s has used up what Entra allows it for now", f.ClientID)
		},
	}, {
		Code: "AADSTS90006", Status: 503, OAuth: "temporarily_unavailable", Kind: Transient, Whose: Tenant,
		Summary: "a server that Entra asks does not answer", Remedy: byItself,
		meaning: func(Facts) string { return "a server that Entra asks does not answer for the moment" },
	}, {
		Code: "AADSTS90033", Status: 503, OAuth: "temporarily_unavailable", Kind: Transient, Whose: Tenant,
		Summary: "a directory service of Entra is down", Remedy: byItself,
		meaning: func(Facts) string { return "a directory service of Entra is down for the moment" },
	},
}

func issuerUnreachable(f Facts) string {
	return fmt.Sprintf("Entra cannot reach the cluster's issuer %s, whose keys it needs: the request is tried again", f.Issuer)
}

// maxShown is more than any resource has; a caller may ask for a longer one.
const maxShown = 256

func unknownResource(f Facts) string {
	if f.asksForScope() {
		return badScope(f)
	}
	return fmt.Sprintf("the tenant %s has no resource %.*s: the application asks for a wrong one, or the resource is not installed in the tenant", f.Tenant, maxShown, f.Resource)
}

func badScope(f Facts) string {
	if resource, ok := strings.CutSuffix(f.Resource, scopeSuffix); ok {
		return fmt.Sprintf("the application asks for the scope %.*s where a resource belongs: it must ask for %.*s", maxShown, f.Resource, maxShown, resource)
	}
	return fmt.Sprintf("no scope can be made of the resource %.*s: the application asks for a wrong one", maxShown, f.Resource)
}
