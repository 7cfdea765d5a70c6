package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/sidestep-agent/sidestep/test/standins/entra"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
	"github.com/sidestep-agent/sidestep/test/standins/vault"
)

// observed is what a case brought, as the client and all others saw it.
type observed struct {
	result   result
	requests []auditLine   // the pod's, of this case
	entra    []entra.Entry // everything so far
}

// judge returns what is wrong with a case; nothing: it is OK.
func judge(c client, t testCase, want federation.Identity, o observed) string {
	for _, check := range []func() string{
		func() string { return tokensAre(want, o.result) },
		func() string { return vaultWas(c, o.result) },
		func() string { return logged(t.budget, want, o.requests) },
		func() string { return exchanged(c.subject(), want, o.entra) },
	} {
		if why := check(); why != "" {
			return why
		}
	}
	return ""
}

// tokensAre checks that the client got two tokens of the identity.
func tokensAre(want federation.Identity, r result) string {
	if r.Error != "" {
		return "the client failed: " + r.Error
	}
	if len(r.Tokens) != 2 {
		return fmt.Sprintf("it got %d tokens, not 2", len(r.Tokens))
	}
	for _, token := range r.Tokens {
		claims, err := claimsOf(token)
		switch {
		case err != nil:
			return "what it got is no token: " + err.Error()
		case claims.ObjectID != want.PrincipalID || claims.AppID != want.ClientID || claims.TenantID != want.TenantID:
			return fmt.Sprintf("the token is of client %s, object %s, not of %s", claims.AppID, claims.ObjectID, want.Name)
		case claims.Audience != vault.Resource:
			return "the token is for " + claims.Audience
		}
	}
	return ""
}

func vaultWas(c client, r result) string {
	if c.vault && r.Vault != "ok" {
		return "it did not use the vault"
	}
	return ""
}

// logged checks that the broker logged each request, and not more than the
// client needs.
func logged(allowed budget, want federation.Identity, lines []auditLine) string {
	used := spent(lines)
	switch {
	case used.tokens == 0:
		return "the broker logged no token"
	case used.tokens > allowed.tokens || used.probes+used.refusals > allowed.probes+allowed.refusals:
		return fmt.Sprintf("%s requests, allowed are %s", used, allowed)
	}
	i := slices.IndexFunc(lines, func(l auditLine) bool {
		return l.Status == http.StatusOK && l.Endpoint == "token" && l.ClientID != want.ClientID
	})
	if i >= 0 {
		return "the broker logged a token of client " + lines[i].ClientID
	}
	return ""
}

// spent counts requests as a budget does. What asks for no token is a probe.
func spent(lines []auditLine) budget {
	var b budget
	for _, l := range lines {
		switch {
		case l.Endpoint == "token" && l.Status == http.StatusOK:
			b.tokens++
		case l.ClientID != "" || l.Status == http.StatusTooManyRequests:
			b.refusals++
		default:
			b.probes++
		}
	}
	return b
}

// exchanged checks that Entra verified one exchange of the service account for
// the identity and the vault: one, because all later ones come from the cache.
func exchanged(subject string, want federation.Identity, entries []entra.Entry) string {
	var verified int
	for _, e := range entries {
		if e.Kind == entra.Token && e.Verified && e.Error == "" && e.Subject == subject &&
			e.ClientID == want.ClientID && e.ObjectID == want.PrincipalID && forVault(e.Scope) {
			verified++
		}
	}
	if verified != 1 {
		return fmt.Sprintf("Entra verified %d exchanges, not 1", verified)
	}
	return ""
}

// forVault reports whether the scopes, of which MSAL adds some that mean
// nothing here, have the vault's among them.
func forVault(scopes string) bool {
	return slices.Contains(strings.Fields(scopes), vault.Resource+"/.default")
}

// gaveUp reports whether the client failed because its own timer for a probe
// ran out, which is 300 ms in some, though the broker answered at once: on a
// busy machine the client itself comes to run too late.
func gaveUp(allowed budget, o observed) bool {
	const atOnce = 50 // milliseconds
	slow := func(l auditLine) bool { return l.MS > atOnce || l.Status != http.StatusBadRequest }
	return o.result.Error != "" && allowed.probes > 0 && spent(o.requests).probes <= allowed.probes &&
		!slices.ContainsFunc(o.requests, slow)
}
