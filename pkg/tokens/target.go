package tokens

import (
	"strings"
	"unicode"

	"github.com/sidestep-agent/sidestep/pkg/tokens/entra"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	// Longer ones exist nowhere; the limits keep a caller from filling the
	// cache with long keys.
	maxClientID = 256
	maxResource = 2048
)

// target is what Entra is asked for, and where.
type target struct {
	authority string // "https://host"
	tenant    string
	clientID  string
	resource  string
	proxy     entra.Proxy
}

// scope returns the resource in Entra's v2.0 form. Nothing else is added to or
// taken from the resource: a slash more or less is another audience.
func (t target) scope() string { return t.resource + "/.default" }

// defaults are the agent's own answers where a workload gives none.
type defaults struct {
	authority string
	tenant    string
	proxies   entra.AllowedProxies
}

// target says what the request means for the workload. Its error is a
// *workload.TokenError.
func (d defaults) target(w workload.Workload, r workload.TokenRequest) (target, error) {
	if w.ServiceAccount == "" {
		return target{}, notFound("the pod has no service account, as static pods have none")
	}
	// Default identity, mapping, tenant and the cache's key all come from the
	// service account: to answer without it would be to guess.
	if !w.ServiceAccountSeen || w.ServiceAccountUID == "" {
		return target{}, unavailable("the service account %s/%s is not known to the agent yet", w.Namespace, w.ServiceAccount)
	}
	var t target
	var err error
	if t.resource, err = checkResource(r.Resource); err != nil {
		return target{}, err
	}
	if t.clientID, err = selectClient(w, r); err != nil {
		return target{}, err
	}
	if strings.ContainsFunc(t.clientID, isOdd) {
		return target{}, notFound("the client id %q has spaces, line ends or characters that cannot be seen in it: fix it in the request, or in the annotations of the service account %s/%s",
			t.clientID, w.Namespace, w.ServiceAccount)
	}
	if t.tenant, err = d.selectTenant(w); err != nil {
		return target{}, err
	}
	if t.authority, err = d.selectAuthority(w); err != nil {
		return target{}, err
	}
	if t.proxy, err = d.proxies.Select(w); err != nil {
		return target{}, err
	}
	return t, nil
}

// isOdd reports a character that no name has that Entra knows: such as the
// carriage return that ends a line of az on Windows.
func isOdd(r rune) bool {
	return unicode.IsSpace(r) || unicode.IsControl(r) || unicode.Is(unicode.Cf, r)
}

func checkResource(resource string) (string, error) {
	// A space would make two scopes out of one.
	if resource == "" || len(resource) > maxResource || strings.ContainsFunc(resource, isOdd) {
		return "", &workload.TokenError{
			Kind:        workload.InvalidResource,
			Description: "the resource is empty, too long, or has spaces or control characters in it",
		}
	}
	return resource, nil
}

// selectClient returns the client id that the request names, or the workload's
// own, which is the service account's annotation or else the container's
// AZURE_CLIENT_ID (pkg/podcache/entry.go). A name that is not mapped is an error:
// to fall back to the default identity would hand out another one than was asked
// for.
func selectClient(w workload.Workload, r workload.TokenRequest) (string, error) {
	switch {
	case len(r.ClientID) > maxClientID:
		return "", notFound("the client_id is too long")
	case r.ClientID != "":
		return r.ClientID, checkClient(w, r.ClientID)
	case r.ObjectID != "":
		return mapped(w, "object id", func(m workload.MappedIdentity) bool {
			return strings.EqualFold(m.PrincipalID, r.ObjectID)
		})
	case r.ResourceID != "":
		// ARM ids are equal whatever their case.
		return mapped(w, "resource id", func(m workload.MappedIdentity) bool {
			return strings.EqualFold(m.ResourceID, r.ResourceID)
		})
	case w.ClientID != "":
		return w.ClientID, nil
	case w.ContainerUnknown:
		return "", unavailable("%s yet; annotate the service account %s/%s with %s to have one default for all",
			w.ClientIDUnclear, w.Namespace, w.ServiceAccount, workload.ClientIDAnnotation)
	case w.ClientIDUnclear != "":
		// The words of IMDS for a VM with several identities and no default.
		return "", notFound("Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request: %s; "+
			"annotate the service account %s/%s with %s to say which one is the default",
			w.ClientIDUnclear, w.Namespace, w.ServiceAccount, workload.ClientIDAnnotation)
	}
	return "", notFound("the service account %s/%s has no annotation %s, and AZURE_CLIENT_ID is not in the env of the pod's spec (envFrom is not read)",
		w.Namespace, w.ServiceAccount, workload.ClientIDAnnotation)
}

// checkClient refuses a client_id of the request that is known to be another kind
// of id. Some clients give any id as client_id first and go on with the next kind
// at IMDS's refusal (az: client_id, then object_id): Entra would say that there is
// no such application, which is true of new identities too and is retried. Where
// an id is set to be a client's as well, Entra decides.
func checkClient(w workload.Workload, id string) error {
	if strings.HasPrefix(id, "/") {
		return notFound("the client_id is a resource id: ask for it by mi_res_id")
	}
	isObject := false
	for _, m := range w.Identities {
		if strings.EqualFold(m.ClientID, id) {
			return nil
		}
		isObject = isObject || strings.EqualFold(m.PrincipalID, id)
	}
	if isObject && !strings.EqualFold(w.ClientID, id) {
		return notFound("the client_id is an object id in the annotation %s of the service account %s/%s: ask for it by object_id",
			workload.IdentitiesAnnotation, w.Namespace, w.ServiceAccount)
	}
	return nil
}

func mapped(w workload.Workload, what string, match func(workload.MappedIdentity) bool) (string, error) {
	for _, m := range w.Identities {
		if match(m) && m.ClientID != "" {
			return m.ClientID, nil
		}
	}
	if len(w.Identities) == 0 {
		return "", notFound("the service account %s/%s has no annotation %s, which maps each %s to its client id; `azwi serviceaccount create` removes it",
			w.Namespace, w.ServiceAccount, workload.IdentitiesAnnotation, what)
	}
	return "", notFound("the annotation %s of the service account %s/%s has no identity with this %s",
		workload.IdentitiesAnnotation, w.Namespace, w.ServiceAccount, what)
}

func (d defaults) selectTenant(w workload.Workload) (string, error) {
	tenant := w.TenantID
	if tenant == "" {
		tenant = d.tenant
	}
	if tenant == "" {
		return "", refused("no tenant is set: annotate the service account %s/%s with %s, or start the agent with --tenant-id",
			w.Namespace, w.ServiceAccount, workload.TenantIDAnnotation)
	}
	if !entra.ValidTenant(tenant) {
		return "", refused("the tenant of the service account %s/%s is neither a GUID nor a domain name: fix its annotation %s",
			w.Namespace, w.ServiceAccount, workload.TenantIDAnnotation)
	}
	return tenant, nil
}

func (d defaults) selectAuthority(w workload.Workload) (string, error) {
	// The webhook names the cluster's own in every pod, with a slash at its end.
	if w.AuthorityHost == "" || strings.TrimSuffix(w.AuthorityHost, "/") == d.authority {
		return d.authority, nil
	}
	authority, err := entra.ParseAuthority(w.AuthorityHost)
	if err != nil {
		return "", refused("AZURE_AUTHORITY_HOST in the pod's spec is %v: it must look like https://login.microsoftonline.com/", err)
	}
	// The agent posts from the node's own network, where a pod's author must
	// not be able to send it.
	if authority != d.authority && !entra.IsEntra(authority) {
		return "", refused("AZURE_AUTHORITY_HOST in the pod's spec is not one of Entra's hosts: remove it, or start the agent with --authority-host %s", authority)
	}
	return authority, nil
}

func unavailable(format string, args ...any) *workload.TokenError {
	return workload.TokenErrorf(workload.Unavailable, format, args...)
}

func notFound(format string, args ...any) *workload.TokenError {
	return workload.TokenErrorf(workload.IdentityNotFound, format, args...)
}

func refused(format string, args ...any) *workload.TokenError {
	return workload.TokenErrorf(workload.Refused, format, args...)
}
