package tokens

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// facts are what is known of a refused exchange. They come from people's
// objects and from callers, so none goes into a command unquoted.
type facts struct {
	issuer     string // of the assertion, as are the next two
	subject    string
	audience   string
	namespace  string
	account    string
	clientID   string
	resourceID string // ARM id of the client's identity; empty: not known
	tenant     string
	resource   string
}

// factsOf returns what is known of an exchange. The assertion is one that
// checkAssertion let pass; the issuer's name is learnt from it.
func factsOf(w workload.Workload, t target, assertion string) facts {
	var c jwt.RegisteredClaims
	// A claim that cannot be read leaves its fact empty.
	_, _, _ = jwt.NewParser().ParseUnverified(assertion, &c)
	f := facts{
		issuer: c.Issuer, subject: w.Subject(), audience: audienceFor(w),
		namespace: w.Namespace, account: w.ServiceAccount,
		clientID: t.clientID, tenant: t.tenant, resource: t.resource,
	}
	for _, m := range w.Identities {
		if strings.EqualFold(m.ClientID, t.clientID) {
			f.resourceID = m.ResourceID
		}
	}
	return f
}

// diagnosis is what one of Entra's codes means for a workload. docs/diagnosis.md
// has the same as a table.
type diagnosis struct {
	says func(facts) string
	mend func(facts) string // a shell command; nil: none mends it
}

// diagnoses by Entra's code. What decides between a prompt refusal and a
// request that is held is not here but in kindOf.
// https://learn.microsoft.com/entra/identity-platform/reference-error-codes
var diagnoses = map[string]diagnosis{
	"AADSTS70021": {says: func(f facts) string {
		return fmt.Sprintf("the identity %s has no federated credential for the subject %s of the issuer %s", f.clientID, f.subject, f.issuer)
	}, mend: createCredential},
	"AADSTS700213": {says: func(f facts) string {
		return fmt.Sprintf("no federated credential of the identity %s is for the subject %s", f.clientID, f.subject)
	}, mend: createCredential},
	"AADSTS700211": {says: func(f facts) string {
		return fmt.Sprintf("no federated credential of the identity %s is for the issuer %s, character for character", f.clientID, f.issuer)
	}, mend: createCredential},
	"AADSTS700212": {says: func(f facts) string {
		return fmt.Sprintf("the federated credential of the identity %s for the subject %s is for another audience than %s", f.clientID, f.subject, f.audience)
	}, mend: updateCredential},
	"AADSTS700024": {says: func(facts) string {
		return "the service account token is outside its time for Entra: the clock of the node or of the API server is wrong"
	}, mend: func(facts) string { return "timedatectl set-ntp true # on the node" }},
	"AADSTS700016": {says: func(f facts) string {
		return fmt.Sprintf("there is no client %s in the tenant %s: one of the two is wrong", f.clientID, f.tenant)
	}, mend: annotateTenantOfClient},
	"AADSTS7000112": {says: func(f facts) string {
		return fmt.Sprintf("the client %s is disabled in the tenant %s", f.clientID, f.tenant)
	}, mend: enableClient},
	"AADSTS7000215": {says: func(f facts) string {
		return fmt.Sprintf("Entra looked for a client secret, which the agent never sends: the client %s is not set up for federation", f.clientID)
	}, mend: createCredential},
	"AADSTS90002": {says: func(f facts) string {
		return fmt.Sprintf("there is no tenant %s in this cloud", f.tenant)
	}, mend: annotateOwnTenant},
	"AADSTS50001":  {says: unknownResource, mend: createResource},
	"AADSTS500011": {says: unknownResource, mend: createResource},
	"AADSTS53003": {says: func(f facts) string {
		return fmt.Sprintf("a conditional access policy of the tenant %s forbids tokens to the client %s from here: its administrator must except it", f.tenant, f.clientID)
	}, mend: listPolicies},
	"AADSTS50196": {says: func(f facts) string {
		return fmt.Sprintf("Entra sees the client %s ask for the same again and again, and pauses it for some minutes", f.clientID)
	}},
	"AADSTS90033": {says: func(facts) string {
		return "a directory service of Entra is down for the moment"
	}},
}

// maxShown is more than any resource has; a caller may ask for a longer one.
const maxShown = 256

func unknownResource(f facts) string {
	return fmt.Sprintf("the tenant %s has no resource %.*s: the application asks for a wrong one, or the resource is not installed in the tenant", f.tenant, maxShown, f.resource)
}

// explain adds to what Entra says with a known code what that means for the
// workload, and a command that mends the cause. It returns a nil error as it
// is.
func explain(e *workload.TokenError, f facts) *workload.TokenError {
	if e == nil {
		return nil
	}
	d, ok := diagnoses[e.Code]
	if !ok {
		return e
	}
	f = f.printable()
	explained := *e
	explained.Meaning = d.says(f)
	if d.mend != nil {
		explained.Mend = d.mend(f)
	}
	return &explained
}

// printable returns the facts without characters that could change what a
// terminal shows of a command.
func (f facts) printable() facts {
	for _, s := range []*string{
		&f.issuer, &f.subject, &f.audience, &f.namespace, &f.account,
		&f.clientID, &f.resourceID, &f.tenant, &f.resource,
	} {
		*s = strings.Map(func(r rune) rune {
			if !unicode.IsPrint(r) {
				return '?'
			}
			return r
		}, strings.ToValidUTF8(*s, "?"))
	}
	return f
}
