package entra

import (
	"fmt"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/sidestep-agent/sidestep/pkg/tokens/aadsts"
)

// refusal is why Entra refuses, in its own words. The texts are what Entra
// answers, as its reference and users' reports show them.
// https://learn.microsoft.com/entra/identity-platform/reference-error-codes
type refusal struct {
	status int
	oauth  string // OAuth's name of the error
	code   int    // AADSTS
	text   string
	cause  string // for the log only
}

const federationDocs = "https://learn.microsoft.com/entra/workload-id/workload-identity-federation"

// tabled returns the refusal with a code of the agent's table, with the status
// and the name that the table has for it.
func tabled(code int, format string, a ...any) *refusal {
	row, ok := aadsts.Lookup(fmt.Sprintf("AADSTS%d", code))
	if !ok {
		panic(fmt.Sprintf("AADSTS%d is not in the table of codes", code))
	}
	return &refusal{status: row.Status, oauth: row.OAuth, code: code, text: fmt.Sprintf(format, a...)}
}

func badRequest(oauth string, code int, format string, a ...any) *refusal {
	return &refusal{status: http.StatusBadRequest, oauth: oauth, code: code, text: fmt.Sprintf(format, a...)}
}

func badClient(code int, format string, a ...any) *refusal {
	return &refusal{status: http.StatusUnauthorized, oauth: "invalid_client", code: code, text: fmt.Sprintf(format, a...)}
}

func unknownInstance() *refusal {
	return badRequest("invalid_instance", 50049, "Unknown or invalid instance.")
}

func unknownTenant(tenant string) *refusal {
	return tabled(90002,
		"Tenant '%s' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud. Check with your subscription administrator, this may happen if there are no active subscriptions for the tenant.", tenant)
}

func unknownClient(client, tenant string) *refusal {
	return tabled(700016,
		"Application with identifier '%s' was not found in the directory '%s'. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You may have sent your authentication request to the wrong tenant.", client, tenant)
}

func missing(parameter string) *refusal {
	return badRequest("invalid_request", 900144, "The request body must contain the following parameter: '%s'.", parameter)
}

func notPost(method string) *refusal {
	return badRequest("invalid_request", 900561, "The endpoint only accepts POST requests. Received a %s request.", method)
}

func unknownGrant(grant string) *refusal {
	return badRequest("unsupported_grant_type", 70003, "The app requested an unsupported grant type '%s'.", grant)
}

func noAssertion() *refusal {
	return badClient(7000218, "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.")
}

func malformedAssertion() *refusal {
	return badRequest("invalid_request", 50027, "JWT token is invalid or malformed.")
}

func noCredentials(a assertion) *refusal {
	return tabled(70021,
		"No matching federated identity record found for presented assertion. Assertion Issuer: '%s'. Assertion Subject: '%s'. Assertion Audience: '%s'. %s", a.Issuer, a.Subject, a.Audience, federationDocs)
}

// mismatch names the part of the assertion that no federated credential has.
func mismatch(code int, part, value string) *refusal {
	return tabled(code,
		"No matching federated identity record found for presented assertion %s '%s'. Check your federated identity credential Subject, Audience and Issuer against the presented assertion. %s", part, value, federationDocs)
}

func badSignature(reason error) *refusal {
	return badClient(700027, "The certificate with identifier used to sign the client assertion is not registered on application. [Reason - %s.]", reason)
}

func unreachableIssuer(issuer string, reason error) *refusal {
	r := tabled(50166, "Request to External OIDC endpoint failed. Issuer: '%s'.", issuer)
	r.cause = reason.Error()
	return r
}

func outOfTime(now time.Time, a assertion) *refusal {
	const layout = "2006-01-02T15:04:05.0000000Z"
	return tabled(700024,
		"Client assertion is not within its valid time range. Current time: %s, assertion valid from %s, expiry time of assertion %s. Review the documentation at https://learn.microsoft.com/entra/identity-platform/certificate-credentials .",
		now.UTC().Format(layout), time.Unix(a.NotBefore, 0).UTC().Format(layout), time.Unix(a.Expiry, 0).UTC().Format(layout))
}

func badScope(scope string) *refusal {
	return tabled(1002012,
		"The provided value for scope %s is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier (application ID URI).", scope)
}

func unknownResource(resource, tenant string) *refusal {
	return tabled(500011,
		"The resource principal named %s was not found in the tenant named %s. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You might have sent your authentication request to the wrong tenant.", resource, tenant)
}

// unavailable is the answer while the stand-in's own federation file is wrong.
func unavailable(cause error) *refusal {
	r := tabled(90033, "A transient error has occurred. Please try again.")
	r.cause = cause.Error()
	return r
}

// name is the refusal's as users know it, "AADSTS70021".
func (r *refusal) name() string { return fmt.Sprintf("AADSTS%d", r.code) }

// bodyOf returns the refusal of a request in Entra's form.
func (s *Server) bodyOf(why *refusal, r *http.Request) any {
	timestamp := s.now().UTC().Format("2006-01-02 15:04:05Z")
	trace, correlation := string(uuid.NewUUID()), r.Header.Get("client-request-id")
	if correlation == "" {
		correlation = string(uuid.NewUUID())
	}
	return map[string]any{
		"error": why.oauth,
		"error_description": fmt.Sprintf("%s: %s\r\nTrace ID: %s\r\nCorrelation ID: %s\r\nTimestamp: %s",
			why.name(), why.text, trace, correlation, timestamp),
		"error_codes":    []int{why.code},
		"timestamp":      timestamp,
		"trace_id":       trace,
		"correlation_id": correlation,
		"error_uri":      fmt.Sprintf("https://%s/error?code=%d", r.Host, why.code),
	}
}
