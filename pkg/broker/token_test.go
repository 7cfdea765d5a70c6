package broker

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const noHeader = `{"error":"invalid_request","error_description":"Required metadata header not specified"}`

func tokenBody(clientID, resource string) string {
	return `{"access_token":"secret-token","client_id":"` + clientID + `","expires_in":"3599","expires_on":"1800003599",` +
		`"ext_expires_in":"3599","not_before":"1799999700","resource":"` + resource + `","token_type":"Bearer"}`
}

func post(target, body string, headers ...string) string {
	headers = append([]string{"Metadata: true", "Content-Type: application/x-www-form-urlencoded"}, headers...)
	return request("POST", target, append(headers, "Content-Length: "+strconv.Itoa(len(body)))...) + body
}

func TestTokenIssued(t *testing.T) {
	const path = "/metadata/identity/oauth2/token"
	vault := workload.TokenRequest{Resource: "https://vault.azure.net"}
	issued := reply{200, tokenBody("client-default", "https://vault.azure.net")}
	for name, test := range map[string]struct {
		request string
		want    reply
		asked   workload.TokenRequest
	}{
		"as documented":         {get(tokenTarget), issued, vault},
		"no api-version":        {get(path + "?resource=https://vault.azure.net"), issued, vault},
		"encoded, other order":  {get(path + "?resource=https%3A%2F%2Fvault.azure.net&api-version=x"), issued, vault},
		"slashes":               {get("//metadata/identity/oauth2/token/?resource=https://vault.azure.net"), issued, vault},
		"case of the path":      {get("/Metadata/identity/OAuth2/token?resource=https://vault.azure.net"), issued, vault},
		"case of the header":    {request("GET", tokenTarget, "mEtAdAtA: TRUE"), issued, vault},
		"absolute form":         {get("http://169.254.169.254" + tokenTarget), issued, vault},
		"unknown, Upgrade":      {get(tokenTarget+"&x=%zz&;=&=", "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "X-Y: z"), issued, vault},
		"POST with query":       {post(tokenTarget, ""), issued, vault},
		"POST with form":        {post(path+"?api-version=2018-02-01", "resource=https%3A%2F%2Fvault.azure.net"), issued, vault},
		"POST, other body":      {strings.Replace(post(tokenTarget, `{"a":1}`), "x-www-form-urlencoded", "json", 1), issued, vault},
		"empty parameter":       {get(tokenTarget + "&client_id="), issued, vault},
		"GUID":                  {get(path + "?resource=00000003-0000-0000-c000-000000000000"), reply{200, tokenBody("client-default", "00000003-0000-0000-c000-000000000000")}, workload.TokenRequest{Resource: "00000003-0000-0000-c000-000000000000"}},
		"api URI, slash":        {get(path + "?resource=api%3A%2F%2Fmy-app/"), reply{200, tokenBody("client-default", "api://my-app/")}, workload.TokenRequest{Resource: "api://my-app/"}},
		"not escaped for HTML":  {get(path + "?resource=a%26b%3Cc%3E%20%C3%A4"), reply{200, tokenBody("client-default", "a&b<c> ä")}, workload.TokenRequest{Resource: "a&b<c> ä"}},
		"client":                {get(tokenTarget + "&client_id=c-2"), reply{200, tokenBody("c-2", "https://vault.azure.net")}, workload.TokenRequest{Resource: vault.Resource, ClientID: "c-2"}},
		"client, other case":    {get(tokenTarget + "&Client_Id=c-2"), reply{200, tokenBody("c-2", "https://vault.azure.net")}, workload.TokenRequest{Resource: vault.Resource, ClientID: "c-2"}},
		"object":                {get(tokenTarget + "&object_id=o"), issued, workload.TokenRequest{Resource: vault.Resource, ObjectID: "o"}},
		"principal":             {get(tokenTarget + "&principal_id=o"), issued, workload.TokenRequest{Resource: vault.Resource, ObjectID: "o"}},
		"mi_res_id":             {get(tokenTarget + "&mi_res_id=%2Fsub%2Fx"), issued, workload.TokenRequest{Resource: vault.Resource, ResourceID: "/sub/x"}},
		"msi_res_id":            {get(tokenTarget + "&msi_res_id=/sub/x"), issued, workload.TokenRequest{Resource: vault.Resource, ResourceID: "/sub/x"}},
		"msi-res-id":            {get(tokenTarget + "&msi-res-id=/sub/x"), issued, workload.TokenRequest{Resource: vault.Resource, ResourceID: "/sub/x"}},
		"bypass_cache":          {get(tokenTarget + "&bypass_cache=true"), issued, workload.TokenRequest{Resource: vault.Resource, BypassCache: true}},
		"bypass_cache set back": {get(tokenTarget + "&bypass_cache=false"), issued, vault},
		"POST in chunks": {
			request("POST", path, "Metadata: true", "Content-Type: application/x-www-form-urlencoded; charset=utf-8", "Transfer-Encoding: chunked") +
				"9\r\nresource=\r\n17\r\nhttps://vault.azure.net\r\n0\r\n\r\n", issued, vault,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			got, header := r.dial().send(test.request)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]workload.TokenRequest{test.asked}, r.tokens.requests()); diff != "" {
				t.Errorf("asked of Tokens (-want +got):\n%s", diff)
			}
			if ct := header.Get("Content-Type"); ct != "application/json; charset=utf-8" {
				t.Errorf("Content-Type %q", ct)
			}
			if seen := r.imds.requests(); seen != nil {
				t.Errorf("the node's IMDS was asked: %q", seen)
			}
		})
	}
}

// What is refused before anything is asked of Tokens.
func TestTokenRequestRefused(t *testing.T) {
	const path = "/metadata/identity/oauth2/token"
	bad := func(description string) reply { return reply{400, errorBody("invalid_request", description)} }
	for name, test := range map[string]struct {
		request string
		want    reply
	}{
		"no header":             {request("GET", tokenTarget), reply{400, noHeader}},
		"bare probe":            {request("GET", path), reply{400, noHeader}},
		"bare POST":             {request("POST", path, "Content-Length: 0"), reply{400, noHeader}},
		"header false":          {request("GET", tokenTarget, "Metadata: false"), reply{400, noHeader}},
		"no header, forwarded":  {request("GET", tokenTarget, "X-Forwarded-For: 10.0.0.1"), reply{400, noHeader}},
		"forwarded":             {get(tokenTarget, "x-forwarded-for: 10.0.0.1"), bad("Header 'X-Forwarded-For' is not allowed")},
		"forwarded, empty":      {get(tokenTarget, "X-Forwarded-For:"), bad("Header 'X-Forwarded-For' is not allowed")},
		"no resource":           {get(path + "?api-version=2018-02-01"), bad("Required query variable 'resource' is missing")},
		"empty resource":        {get(path + "?resource="), bad("Required query variable 'resource' is missing")},
		"resource twice":        {get(tokenTarget + "&resource=https://vault.azure.net"), bad("Parameter 'resource' is given more than once")},
		"resource twice, case":  {get(tokenTarget + "&Resource=b"), bad("Parameter 'Resource' is given more than once")},
		"encoded name twice":    {get(tokenTarget + "&%72esource=b"), bad("Parameter 'resource' is given more than once")},
		"query and form":        {post(tokenTarget, "resource=b"), bad("Parameter 'resource' is given more than once")},
		"client twice":          {get(tokenTarget + "&client_id=a&client_id=a"), bad("Parameter 'client_id' is given more than once")},
		"object and principal":  {get(tokenTarget + "&object_id=a&principal_id=a"), bad("Parameter 'principal_id' is given more than once")},
		"mi and msi":            {get(tokenTarget + "&mi_res_id=a&msi_res_id=a"), bad("Parameter 'msi_res_id' is given more than once")},
		"client and object":     {get(tokenTarget + "&client_id=a&object_id=b"), bad("Only one identity may be asked for, not 'client_id' and 'object_id'")},
		"object and mi, form":   {post(tokenTarget+"&msi-res-id=a", "principal_id=b"), bad("Only one identity may be asked for, not 'object_id' and 'mi_res_id'")},
		"malformed resource":    {get(path + "?resource=%zz"), bad("The value of 'resource' is malformed")},
		"resource is not UTF-8": {get(path + "?resource=%ff"), bad("The value of 'resource' is malformed")},
		"body too large":        {post(path, "resource="+strings.Repeat("a", maxForm)), bad("The request body is larger than 16384 bytes")},
		"PUT":                   {request("PUT", tokenTarget, "Metadata: true", "Content-Length: 0"), reply{405, errorBody("method_not_allowed", "Method not allowed")}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			got, _ := r.dial().send(test.request)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			if asked := r.tokens.requests(); asked != nil {
				t.Errorf("asked of Tokens: %+v", asked)
			}
		})
	}
}

func TestTokenFailure(t *testing.T) {
	refused := &workload.TokenError{Kind: workload.Refused, Code: "AADSTS70021", Description: "no matching federated credential", Err: errors.New("inner")}
	for name, test := range map[string]struct {
		err    error
		target string
		want   reply
		after  string
	}{
		"no identity": {
			err:  &workload.TokenError{Kind: workload.IdentityNotFound, Description: "the service account has none"},
			want: reply{400, errorBody("invalid_request", "Identity not found: the service account has none")},
		},
		"refused": {
			err: refused, want: reply{400, errorBody("invalid_request", "AADSTS70021: no matching federated credential")},
		},
		"refused, diagnosed": {
			err: &workload.TokenError{
				Kind: workload.Refused, Code: "AADSTS70021", Description: "AADSTS70021: no matching record", Meaning: "there is none for it", Fix: `az x "$y" <<<z`,
			},
			want: reply{400, errorBody("invalid_request", `AADSTS70021: there is none for it. (AADSTS70021: no matching record) Fix: az x \"$y\" <<<z`)},
		},
		"refused, identity selected": {
			err: refused, target: "&client_id=c",
			want: reply{400, errorBody("invalid_request", "Identity not found: AADSTS70021: no matching federated credential")},
		},
		"resource": {
			err:  &workload.TokenError{Kind: workload.InvalidResource, Code: "AADSTS500011", Description: "AADSTS500011: not found"},
			want: reply{400, errorBody("invalid_resource", "AADSTS500011: not found")},
		},
		"unavailable": {err: &workload.TokenError{Kind: workload.Unavailable}, want: throttledReply, after: "1"},
		"unavailable, with a time": {
			err: &workload.TokenError{Kind: workload.Unavailable, RetryAfter: 1200 * time.Millisecond}, want: throttledReply, after: "2",
		},
		"deadline":       {err: context.DeadlineExceeded, want: throttledReply, after: "1"},
		"not classified": {err: errors.New("who knows"), want: throttledReply, after: "1"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.tokens.set(func(f *fakeTokens) { f.err = test.err })
			c := r.dial()
			got, header := c.send(get(tokenTarget + test.target))
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			if after := header.Get("Retry-After"); after != test.after {
				t.Errorf("Retry-After %q, want %q", after, test.after)
			}
			c.send(get(tokenTarget)) // the connection stays
		})
	}
}

// The pod is looked at again when its token is there.
func TestPodChangesWhileTokenIsFetched(t *testing.T) {
	gone := errors.New("gone")
	for name, test := range map[string]struct {
		change func(*fakeAttester)
		want   int
	}{
		"gone":          {func(f *fakeAttester) { f.current = gone }, 403},
		"denied":        {func(f *fakeAttester) { f.decision.Verdict = workload.Deny }, 403},
		"passes":        {func(f *fakeAttester) { f.decision.Verdict = workload.Pass }, 429},
		"metadata-only": {func(f *fakeAttester) { f.decision.Access = workload.MetadataOnly }, 400},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.tokens.set(func(f *fakeTokens) {
				f.before = func(context.Context) { r.attester.set(test.change) }
			})
			got, _ := r.dial().send(get(tokenTarget))
			if got.Status != test.want || strings.Contains(got.Body, "secret-token") {
				t.Errorf("answer %+v, want %d without a token", got, test.want)
			}
		})
	}
}

// Who calls before the API server has reported what says which identity is meant
// waits for that, and is then asked for as what it says: the service account, or,
// where the pod's containers differ, the caller's name.
func TestIdentityIsWaitedFor(t *testing.T) {
	for name, unknown := range map[string]func(*workload.Workload){
		"service account": func(w *workload.Workload) { w.ServiceAccountSeen, w.ClientID = false, "" },
		"container":       unknownContainer,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.attester.set(func(f *fakeAttester) { unknown(&f.pod) })
			c := r.dial()
			answered := make(chan reply)
			go func() {
				got, _ := c.send(get(tokenTarget))
				answered <- got
			}()
			for !r.clock.HasWaiters() {
				time.Sleep(time.Millisecond)
			}
			r.clock.Step(identityInterval)
			if asked := r.tokens.requests(); len(asked) != 0 {
				t.Fatalf("asked for %v before the identity was known", asked)
			}
			r.attester.set(func(f *fakeAttester) { f.pod = testPod })
			for {
				select {
				case got := <-answered:
					if got.Status != 200 || !strings.Contains(got.Body, `"client_id":"client-default"`) {
						t.Errorf("%+v, want a token of the default identity", got)
					}
					return
				case <-time.After(time.Millisecond):
					r.clock.Step(identityInterval)
				}
			}
		})
	}
}

// unknownContainer makes the caller one whose container is not known yet.
func unknownContainer(w *workload.Workload) {
	w.ClientID, w.ClientIDUnclear, w.ContainerUnknown = "", "it is not known which of them asks", true
}

// Who names the identity does not wait for the container's name, and who is in no
// container does not wait for one.
func TestIdentityThatIsClearIsNotWaitedFor(t *testing.T) {
	r := newRig(t)
	r.tokens.set(func(f *fakeTokens) { f.empty = true })
	r.attester.set(func(f *fakeAttester) { unknownContainer(&f.pod) })
	got, _ := r.dial().send(get(tokenTarget + "&client_id=own"))
	if got.Status != 200 || !strings.Contains(got.Body, `"client_id":"own"`) {
		t.Errorf("with a client_id: %+v, want a token of it", got)
	}
	r.attester.set(func(f *fakeAttester) { f.pod.ContainerUnknown = false })
	r.tokens.set(func(f *fakeTokens) {
		f.err = workload.TokenErrorf(workload.IdentityNotFound, "Multiple user assigned identities exist")
	})
	if got, _ := r.dial().send(get(tokenTarget)); got.Status != 400 || !strings.Contains(got.Body, "Identity not found: Multiple") {
		t.Errorf("in no container: %+v, want 400 at once", got)
	}
}
