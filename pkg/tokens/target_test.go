package tokens

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func TestTarget(t *testing.T) {
	d := defaults{authority: "https://login.microsoftonline.com", tenant: tenantA}
	base := workload.Workload{
		Namespace: "shop", ServiceAccount: "cart", ServiceAccountUID: "u1", ServiceAccountSeen: true,
		ClientID: clientA,
		Identities: []workload.MappedIdentity{
			{ResourceID: "/subscriptions/S/resourcegroups/G/providers/Microsoft.ManagedIdentity/userAssignedIdentities/none"},
			{ClientID: clientB, ResourceID: "/subscriptions/S/resourcegroups/G/providers/Microsoft.ManagedIdentity/userAssignedIdentities/b", PrincipalID: "0000BBBB-0000-4000-8000-000000000000"},
		},
	}
	want := target{authority: d.authority, tenant: tenantA, clientID: clientA, resource: vault}
	with := func(change func(*target)) target {
		w := want
		change(&w)
		return w
	}
	tests := []struct {
		name    string
		d       defaults
		change  func(*workload.Workload)
		r       workload.TokenRequest
		want    target
		kind    workload.TokenErrorKind
		mention string // in the error's description; empty: no error
	}{
		{name: "default identity", want: want},
		{name: "client id of the request, as it is", r: workload.TokenRequest{ClientID: "Some-Client"}, want: with(func(t *target) { t.clientID = "Some-Client" })},
		{name: "object id, in another case", r: workload.TokenRequest{ObjectID: "0000bbbb-0000-4000-8000-000000000000"}, want: with(func(t *target) { t.clientID = clientB })},
		{name: "resource id, in another case", r: workload.TokenRequest{ResourceID: "/SUBSCRIPTIONS/s/resourceGroups/g/providers/microsoft.managedidentity/userassignedidentities/B"}, want: with(func(t *target) { t.clientID = clientB })},
		{name: "unmapped object id is never ignored", r: workload.TokenRequest{ObjectID: "0000cccc-0000-4000-8000-000000000000"}, kind: workload.IdentityNotFound, mention: "sidestep.dev/identities"},
		{name: "unmapped resource id is never ignored", r: workload.TokenRequest{ResourceID: "/subscriptions/s"}, kind: workload.IdentityNotFound, mention: "sidestep.dev/identities"},
		{name: "no mapping at all", change: func(w *workload.Workload) { w.Identities = nil }, r: workload.TokenRequest{ObjectID: "o"}, kind: workload.IdentityNotFound, mention: "azwi serviceaccount create"},
		{name: "mapped to no client", r: workload.TokenRequest{ResourceID: base.Identities[0].ResourceID}, kind: workload.IdentityNotFound, mention: "sidestep.dev/identities"},
		{name: "no default identity", change: func(w *workload.Workload) { w.ClientID = "" }, kind: workload.IdentityNotFound, mention: "azure.workload.identity/client-id"},
		{name: "no default identity, but one asked for", change: func(w *workload.Workload) { w.ClientID = "" }, r: workload.TokenRequest{ClientID: clientB}, want: with(func(t *target) { t.clientID = clientB })},
		{name: "client id too long", r: workload.TokenRequest{ClientID: strings.Repeat("c", 1000)}, kind: workload.IdentityNotFound, mention: "too long"},
		{name: "no service account, as in a static pod", change: func(w *workload.Workload) { w.ServiceAccount, w.ServiceAccountUID = "", "" }, kind: workload.IdentityNotFound, mention: "static"},
		{name: "service account not seen", change: func(w *workload.Workload) { w.ServiceAccountSeen = false }, r: workload.TokenRequest{ClientID: clientB}, kind: workload.Unavailable, mention: "shop/cart"},
		{name: "service account without a UID", change: func(w *workload.Workload) { w.ServiceAccountUID = "" }, kind: workload.Unavailable, mention: "shop/cart"},
		{name: "tenant of the workload", change: func(w *workload.Workload) { w.TenantID = "contoso.example" }, want: with(func(t *target) { t.tenant = "contoso.example" })},
		{name: "no tenant", d: defaults{authority: d.authority}, kind: workload.Refused, mention: "--tenant-id"},
		{name: "tenant that is a path", change: func(w *workload.Workload) { w.TenantID = "a-b/../c" }, kind: workload.Refused, mention: "azure.workload.identity/tenant-id"},
		{name: "tenant that is many", change: func(w *workload.Workload) { w.TenantID = "common" }, kind: workload.Refused, mention: "azure.workload.identity/tenant-id"},
		{name: "authority of the pod", change: func(w *workload.Workload) { w.AuthorityHost = "https://Login.MicrosoftOnline.us/" }, want: with(func(t *target) { t.authority = "https://login.microsoftonline.us" })},
		{name: "authority of another", change: func(w *workload.Workload) { w.AuthorityHost = "https://internal.example" }, kind: workload.Refused, mention: "AZURE_AUTHORITY_HOST"},
		{name: "authority that ends like Entra's", change: func(w *workload.Workload) { w.AuthorityHost = "https://login.microsoftonline.com.evil.example" }, kind: workload.Refused, mention: "AZURE_AUTHORITY_HOST"},
		{name: "authority without TLS", change: func(w *workload.Workload) { w.AuthorityHost = "http://login.microsoftonline.com" }, kind: workload.Refused, mention: "AZURE_AUTHORITY_HOST"},
		{name: "authority with a path", change: func(w *workload.Workload) { w.AuthorityHost = "https://login.microsoftonline.com/common" }, kind: workload.Refused, mention: "AZURE_AUTHORITY_HOST"},
		{name: "authority with a user", change: func(w *workload.Workload) { w.AuthorityHost = "https://login.microsoftonline.com@evil.example" }, kind: workload.Refused, mention: "AZURE_AUTHORITY_HOST"},
		{name: "resource that would be two scopes", r: workload.TokenRequest{Resource: "https://a https://b"}, kind: workload.InvalidResource, mention: "resource"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, r, def := base, tt.r, d
			if tt.change != nil {
				tt.change(&w)
			}
			if r.Resource == "" {
				r.Resource = vault
			}
			if tt.d != (defaults{}) {
				def = tt.d
			}
			got, err := def.target(w, r)
			if tt.mention == "" {
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(target{})); diff != "" {
					t.Errorf("target (-want +got):\n%s", diff)
				}
				return
			}
			wantTokenError(t, err, tt.kind, tt.mention)
		})
	}
}

// An id of another kind than the request says is refused at once; where it is set
// to be a client's as well, Entra decides.
func TestTargetOfAnIDOfAnotherKind(t *testing.T) {
	d := defaults{authority: "https://login.microsoftonline.com", tenant: tenantA}
	const object = "0000BBBB-0000-4000-8000-000000000000"
	const resource = "/subscriptions/S/resourcegroups/G/providers/Microsoft.ManagedIdentity/userAssignedIdentities/b"
	mapped := []workload.MappedIdentity{{ClientID: clientB, ResourceID: resource, PrincipalID: object}}
	twice := append(slices.Clone(mapped), workload.MappedIdentity{ClientID: object})
	for _, tc := range []struct {
		clientID   string // the default
		identities []workload.MappedIdentity
		r          workload.TokenRequest
		mention    string // in the refusal; empty: Entra is asked for the id
	}{
		{clientA, mapped, workload.TokenRequest{ClientID: strings.ToLower(object)}, "by object_id"},
		{object, mapped, workload.TokenRequest{ClientID: object}, ""},
		{clientA, twice, workload.TokenRequest{ClientID: object}, ""},
		{clientA, mapped, workload.TokenRequest{ClientID: resource}, "by mi_res_id"},
		{clientA, mapped, workload.TokenRequest{ClientID: "/subscriptions/s"}, "by mi_res_id"},
		{clientA, mapped, workload.TokenRequest{ObjectID: clientB}, "sidestep.dev/identities"},
		{clientA, mapped, workload.TokenRequest{ObjectID: resource}, "sidestep.dev/identities"},
		{clientA, mapped, workload.TokenRequest{ResourceID: clientB}, "sidestep.dev/identities"},
		{clientA, mapped, workload.TokenRequest{ResourceID: object}, "sidestep.dev/identities"},
	} {
		w := workload.Workload{
			Namespace: "shop", ServiceAccount: "cart", ServiceAccountUID: "u1", ServiceAccountSeen: true,
			ClientID: tc.clientID, Identities: tc.identities,
		}
		tc.r.Resource = vault
		got, err := d.target(w, tc.r)
		if tc.mention != "" {
			wantTokenError(t, err, workload.IdentityNotFound, tc.mention)
		} else if err != nil || got.clientID != object {
			t.Errorf("%+v: %+v, %v", tc.r, got, err)
		}
	}
}

// Where the default identity is not clear, nothing but a named one is given: what
// may become clear is asked for again, the rest is refused in IMDS's words.
func TestTargetWithoutAClearDefault(t *testing.T) {
	d := defaults{authority: "https://login.microsoftonline.com", tenant: tenantA}
	w := workload.Workload{
		Namespace: "shop", ServiceAccount: "cart", ServiceAccountUID: "u1", ServiceAccountSeen: true,
		ClientIDUnclear: "it is not known which of them asks",
		Identities:      []workload.MappedIdentity{{ClientID: clientB, ResourceID: "/subscriptions/b", PrincipalID: "b"}},
	}
	for _, yet := range []bool{false, true} {
		w.ContainerUnknown = yet
		for _, r := range []workload.TokenRequest{{ClientID: clientB}, {ObjectID: "b"}, {ResourceID: "/subscriptions/b"}} {
			r.Resource = vault
			if got, err := d.target(w, r); err != nil || got.clientID != clientB {
				t.Errorf("%+v: %+v, %v", r, got, err)
			}
		}
		_, err := d.target(w, workload.TokenRequest{Resource: vault})
		if yet {
			wantTokenError(t, err, workload.Unavailable, "which of them asks yet; annotate the service account shop/cart")
		} else {
			wantTokenError(t, err, workload.IdentityNotFound,
				"Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request: it is not known which of them asks;")
		}
	}
}

func wantTokenError(t *testing.T, err error, kind workload.TokenErrorKind, mention string) {
	t.Helper()
	var e *workload.TokenError
	if !errors.As(err, &e) {
		t.Fatalf("error %v is no *workload.TokenError", err)
	}
	if e.Kind != kind || !strings.Contains(e.Description, mention) {
		t.Fatalf("error %q, want kind %v that mentions %q", e, kind, mention)
	}
}

func TestScopeIsTheResourceAndNothingElse(t *testing.T) {
	for _, resource := range []string{vault, vault + "/", "api://app", "https://a//", clientA} {
		if got, want := (target{resource: resource}).scope(), resource+"/.default"; got != want {
			t.Errorf("scope of %q is %q, want %q", resource, got, want)
		}
	}
}

func TestNewNamesTheOptionToFix(t *testing.T) {
	tests := map[string]Options{
		"cloud":     {KubeletDir: "/k", Cloud: "AzureMoon"},
		"authority": {KubeletDir: "/k", AuthorityHost: "http://127.0.0.1:1/"},
		"tenant":    {KubeletDir: "/k", TenantID: "a/b"},
		"kubelet":   {},
	}
	for mention, o := range tests {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), mention) {
			t.Errorf("New: error %v, want one about the %s", err, mention)
		}
	}
	for cloud, host := range map[Cloud]string{
		"": "login.microsoftonline.com", AzurePublic: "login.microsoftonline.com",
		AzureUSGovernment: "login.microsoftonline.us", AzureChina: "login.chinacloudapi.cn",
	} {
		e, err := New(Options{KubeletDir: "/k", Cloud: cloud})
		if err != nil {
			t.Fatal(err)
		}
		if got := e.defaults.authority; got != "https://"+host {
			t.Errorf("authority of %q is %s", cloud, got)
		}
	}
}

// What nobody sees in an id is shown, and not sent to Entra.
func TestOddIDsAreNamed(t *testing.T) {
	d := defaults{authority: "https://login.microsoftonline.com", tenant: tenantA}
	w := workload.Workload{
		Namespace: "shop", ServiceAccount: "cart", ServiceAccountUID: "u1", ServiceAccountSeen: true,
		ClientID:   clientA + " " + clientB,
		Identities: []workload.MappedIdentity{{ClientID: "\ufeff" + clientB, PrincipalID: "o"}},
	}
	for mention, r := range map[string]workload.TokenRequest{
		`\r" has spaces, line ends`:     {Resource: vault, ClientID: clientB + "\r"},
		"the service account shop/cart": {Resource: vault},
		`"\ufeff`:                       {Resource: vault, ObjectID: "o"},
	} {
		_, err := d.target(w, r)
		wantTokenError(t, err, workload.IdentityNotFound, mention)
	}
	_, err := d.target(w, workload.TokenRequest{Resource: vault + "\r", ClientID: clientB})
	wantTokenError(t, err, workload.InvalidResource, "control characters")
}
