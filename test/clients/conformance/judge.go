package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/sidestep-agent/sidestep/test/standins/entra"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
)

// observed is what a case brought, as the client and all others saw it.
type observed struct {
	result   result
	changes  []string      // what it did to the zone's records
	requests []auditLine   // the pod's, of this case
	entra    []entra.Entry // everything so far
}

// judge returns what is wrong with a case; nothing: it is OK.
func judge(c client, t testCase, want federation.Identity, o observed) string {
	checks := []func() string{
		func() string { return tokensAre(c, want, o.result) },
		func() string { return vaultWas(c, o.result) },
		func() string { return blobWas(c, o.result) },
		func() string { return zoneWas(c, o.changes) },
		func() string { return logged(t.budget, want, o.requests) },
		func() string { return exchanged(c, want, o.entra) },
	}
	if t.mode == "detect" {
		checks = []func() string{
			func() string { return detected(t, o) },
			func() string { return neverExchanged(c, o.entra) },
		}
	}
	for _, check := range checks {
		if why := check(); why != "" {
			return why
		}
	}
	return ""
}

// tokensAre checks that the client got two tokens of the identity, or sent no
// other's where it shows none itself.
func tokensAre(c client, want federation.Identity, r result) string {
	if r.Error != "" {
		return "the client failed: " + r.Error
	}
	if n := len(r.Tokens); n < 2 || n > 2 && !c.silent {
		return fmt.Sprintf("it got %d tokens, not 2", len(r.Tokens))
	}
	for _, token := range r.Tokens {
		claims, err := claimsOf(token)
		switch {
		case err != nil:
			return "what it got is no token: " + err.Error()
		case claims.ObjectID != want.PrincipalID || claims.AppID != want.ClientID || claims.TenantID != want.TenantID:
			return fmt.Sprintf("the token is of client %s, object %s, not of %s", claims.AppID, claims.ObjectID, want.Name)
		case claims.Audience != c.audience():
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

func blobWas(c client, r result) string {
	if c.blobs && r.Blob != "ok" {
		return "it did not write and read a blob"
	}
	return ""
}

func zoneWas(c client, changes []string) string {
	want := ""
	if c.zone {
		want = wantRecords()
	}
	if got := strings.Join(changes, ", "); got != want {
		return fmt.Sprintf("it did %q to the zone's records, not %q", got, want)
	}
	return ""
}

// detected checks what the detector found, and that it asked as often as it asks
// IMDS itself: more would be tries again, and none would be a test of nothing.
func detected(t testCase, o observed) string {
	used := spent(o.requests)
	switch {
	case o.result.Error != "":
		return "the detector failed: " + o.result.Error
	case o.result.Cloud != t.cloud:
		return fmt.Sprintf("it found %q, not %q", o.result.Cloud, t.cloud)
	case used != t.budget:
		return fmt.Sprintf("%s requests, not %s", used, t.budget)
	}
	return ""
}

// neverExchanged checks that nothing was asked of Entra for the client.
func neverExchanged(c client, entries []entra.Entry) string {
	if slices.ContainsFunc(entries, func(e entra.Entry) bool { return e.Subject == c.subject() }) {
		return "Entra was asked for a token"
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
// the identity and the resource: one, because all later ones come from the cache.
func exchanged(c client, want federation.Identity, entries []entra.Entry) string {
	var verified int
	for _, e := range entries {
		if e.Kind == entra.Token && e.Verified && e.Error == "" && e.Subject == c.subject() &&
			e.ClientID == want.ClientID && e.ObjectID == want.PrincipalID && isFor(c.audience(), e.Scope) {
			verified++
		}
	}
	if verified != 1 {
		return fmt.Sprintf("Entra verified %d exchanges, not 1", verified)
	}
	return ""
}

// isFor reports whether the scopes, of which MSAL adds some that mean nothing
// here, have the resource's among them.
func isFor(resource, scopes string) bool {
	return slices.Contains(strings.Fields(scopes), resource+"/.default")
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
