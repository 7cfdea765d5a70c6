package main

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/sidestep-agent/sidestep/test/standins/accesstoken"
	"github.com/sidestep-agent/sidestep/test/standins/entra"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
	"github.com/sidestep-agent/sidestep/test/standins/vault"
)

var (
	testIdentity = federation.Identity{Name: "app", TenantID: "t", ClientID: "c", PrincipalID: "o"}
	testClient   = client{name: "x 1.0", short: "x-1.0", vault: true}
	testProbing  = testCase{mode: "default", by: "none", budget: probing}
)

// token returns a JWT whose signature is no one's: the vault verifies those.
func token(claims accesstoken.Claims) string {
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	return "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString(payload) + ".c2ln"
}

// good is what all see of a case that is OK.
func good() observed {
	own := token(accesstoken.Claims{Audience: vault.Resource, AppID: "c", ObjectID: "o", TenantID: "t"})
	return observed{
		result:   result{Tokens: []string{own, own}, Vault: "ok"},
		requests: []auditLine{{Endpoint: "token", Status: 400}, {Endpoint: "token", Status: 200, ClientID: "c"}},
		entra: []entra.Entry{{Kind: entra.Keys}, {
			Kind: entra.Token, Verified: true, Subject: testClient.subject(), ClientID: "c", ObjectID: "o",
			Scope: vault.Resource + "/.default openid",
		}},
	}
}

func TestJudgeBlobs(t *testing.T) {
	c := testClient
	c.vault, c.blobs = false, true
	o := good()
	if why := judge(c, testProbing, testIdentity, o); !strings.Contains(why, "blob") {
		t.Errorf("no blob: %q", why)
	}
	o.result.Blob = "ok"
	if why := judge(c, testProbing, testIdentity, o); why != "" {
		t.Error(why)
	}
	c.resource = "https://storage.azure.com"
	if why := judge(c, testProbing, testIdentity, o); !strings.Contains(why, "is for") {
		t.Errorf("tokens for the vault: %q", why)
	}
}

func TestJudgeZones(t *testing.T) {
	c := testClient
	c.vault, c.zone, c.silent = false, true, true
	o := good()
	if why := judge(c, testProbing, testIdentity, o); !strings.Contains(why, "zone's records") {
		t.Errorf("no record: %q", why)
	}
	o.changes = strings.Split(wantRecords(), ", ")
	if why := judge(c, testProbing, testIdentity, o); why != "" {
		t.Error(why)
	}
	o.result.Tokens = append(o.result.Tokens, token(accesstoken.Claims{AppID: "c", ObjectID: "p", TenantID: "t"}))
	if why := judge(c, testProbing, testIdentity, o); !strings.Contains(why, "object p") {
		t.Errorf("a token of another's was sent: %q", why)
	}
	o.result.Tokens, o.changes = o.result.Tokens[:2], o.changes[:1]
	if why := judge(c, testProbing, testIdentity, o); !strings.Contains(why, "zone's records") {
		t.Errorf("the record is left: %q", why)
	}
	c.zone, o.changes = false, nil
	if why := judge(c, testProbing, testIdentity, o); why != "" {
		t.Errorf("a client without a zone: %q", why)
	}
}

func TestJudgeDetectors(t *testing.T) {
	c := client{name: "d 1.0", short: "d-1.0"}
	page, instance := auditLine{Endpoint: "other", Status: 404}, auditLine{Endpoint: "instance", Status: 200}
	found := func() observed {
		return observed{result: result{Cloud: thisVM}, requests: []auditLine{page, instance}, entra: good().entra}
	}
	for name, test := range map[string]struct {
		spoil func(*observed)
		want  string // empty: OK
	}{
		"good":            {func(*observed) {}, ""},
		"failed":          {func(o *observed) { o.result.Error = "no luck" }, "no luck"},
		"another cloud":   {func(o *observed) { o.result.Cloud = "aws i-1" }, `it found "aws i-1"`},
		"another machine": {func(o *observed) { o.result.Cloud = "azure x" }, `it found "azure x"`},
		"asked again":     {func(o *observed) { o.requests = append(o.requests, page) }, "0+3 probe"},
		"asked nothing":   {func(o *observed) { o.requests = nil }, "0 requests"},
		"asked Entra": {func(o *observed) { o.entra = append(o.entra, entra.Entry{Kind: entra.Token, Subject: c.subject()}) },
			"Entra was asked"},
	} {
		o := found()
		test.spoil(&o)
		why := judge(c, detect("auto", thisVM, 2), testIdentity, o)
		if (why == "") != (test.want == "") || !strings.Contains(why, test.want) {
			t.Errorf("%s: %q, want %q", name, why, test.want)
		}
	}
}

// Each client of the catalogue has its requests replayed, and what docs/clients.md
// says of its patience is what the catalogue says.
func TestClientsAreRecorded(t *testing.T) {
	for _, c := range catalog("") {
		text, err := os.ReadFile("../../../pkg/broker/testdata/clients/" + c.short + ".requests")
		if err != nil {
			t.Error(err)
			continue
		}
		if head := c.head(); !strings.HasPrefix(string(text), head) {
			t.Errorf("%s does not begin with %q", c.short, head)
		}
		for _, test := range c.cases {
			if !strings.Contains(string(text), "\n=== "+test.String()+"\n") {
				t.Errorf("%s: no request of %q", c.short, test)
			}
		}
	}
}

func TestJudge(t *testing.T) {
	if why := judge(testClient, testProbing, testIdentity, good()); why != "" {
		t.Fatalf("a good case: %s", why)
	}
	probe := auditLine{Endpoint: "token", Status: 400}
	granted := auditLine{Endpoint: "token", Status: 200, ClientID: "c"}
	for name, test := range map[string]struct {
		spoil func(*observed)
		want  string
	}{
		"error":     {func(o *observed) { o.result.Error = "no luck" }, "no luck"},
		"one token": {func(o *observed) { o.result.Tokens = o.result.Tokens[:1] }, "1 tokens"},
		"no token":  {func(o *observed) { o.result.Tokens[1] = "x" }, "no token"},
		"stranger's": {func(o *observed) {
			o.result.Tokens[1] = token(accesstoken.Claims{AppID: "c", ObjectID: "p", TenantID: "t"})
		}, "object p"},
		"other audience": {func(o *observed) {
			o.result.Tokens[0] = token(accesstoken.Claims{AppID: "c", ObjectID: "o", TenantID: "t"})
		}, "is for"},
		"vault":            {func(o *observed) { o.result.Vault = "" }, "vault"},
		"not logged":       {func(o *observed) { o.requests = o.requests[:1] }, "logged no token"},
		"a probe more":     {func(o *observed) { o.requests = append(o.requests, probe) }, "1+2 probe"},
		"a token more":     {func(o *observed) { o.requests = append(o.requests, granted) }, "2+1 probe"},
		"throttled":        {func(o *observed) { o.requests = append(o.requests, auditLine{Endpoint: "token", Status: 429}) }, "refused"},
		"metadata as well": {func(o *observed) { o.requests = append(o.requests, auditLine{Endpoint: "instance", Status: 200}) }, "1+2 probe"},
		"logged otherwise": {func(o *observed) { o.requests[1].ClientID = "d" }, "client d"},
		"not exchanged":    {func(o *observed) { o.entra = o.entra[:1] }, "0 exchanges"},
		"exchanged twice":  {func(o *observed) { o.entra = append(o.entra, o.entra[1]) }, "2 exchanges"},
		"not verified":     {func(o *observed) { o.entra[1].Verified = false }, "0 exchanges"},
		"other subject":    {func(o *observed) { o.entra[1].Subject = "y" }, "0 exchanges"},
		"other scope":      {func(o *observed) { o.entra[1].Scope = "https://x/.default" }, "0 exchanges"},
	} {
		t.Run(name, func(t *testing.T) {
			o := good()
			test.spoil(&o)
			if why := judge(testClient, testProbing, testIdentity, o); !strings.Contains(why, test.want) {
				t.Errorf("judged %q, want something with %q", why, test.want)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	denied := observed{result: result{Error: "400: Identity not found: …"}, requests: []auditLine{{Endpoint: "token", Status: 400}}}
	if why := refused(denied); why != "" {
		t.Errorf("a good refusal: %s", why)
	}
	for name, o := range map[string]observed{
		"a token":     {result: result{Tokens: []string{"x"}, Error: denied.result.Error}, requests: denied.requests},
		"other words": {result: result{Error: "timeout"}, requests: denied.requests},
		"asked again": {result: denied.result, requests: append(denied.requests, denied.requests...)},
	} {
		if refused(o) == "" {
			t.Errorf("%s passes for a refusal", name)
		}
	}
}

func TestGaveUp(t *testing.T) {
	probe := auditLine{Endpoint: "token", Status: 400, MS: 1}
	for name, test := range map[string]struct {
		budget budget
		seen   observed
		want   bool
	}{
		"its timer":      {probing, observed{result: result{Error: "x"}, requests: []auditLine{probe}}, true},
		"before it came": {probing, observed{result: result{Error: "x"}}, true},
		"no failure":     {probing, observed{requests: []auditLine{probe}}, false},
		"it has none":    {cached, observed{result: result{Error: "x"}}, false},
		"a slow broker":  {probing, observed{result: result{Error: "x"}, requests: []auditLine{{Endpoint: "token", Status: 400, MS: 200}}}, false},
		"throttled":      {probing, observed{result: result{Error: "x"}, requests: []auditLine{{Endpoint: "token", Status: 429}}}, false},
		"had a token":    {probing, observed{result: result{Error: "x"}, requests: []auditLine{probe, {Endpoint: "token", Status: 200}}}, false},
		"asked again":    {probing, observed{result: result{Error: "x"}, requests: []auditLine{probe, probe}}, false},
	} {
		if got := gaveUp(test.budget, test.seen); got != test.want {
			t.Errorf("%s: %t, want %t", name, got, test.want)
		}
	}
}

// Every client's service account fits into the federated credentials of each
// identity, and every case has an identity.
func TestCatalog(t *testing.T) {
	clients := catalog("/x")
	file, ids, err := openFederation(clients)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := federation.Fixed(file); err != nil {
		t.Error(err)
	}
	names := map[string]bool{}
	for _, c := range clients {
		if names[c.short] {
			t.Errorf("two clients are %s", c.short)
		}
		names[c.short] = true
		for _, test := range c.cases {
			if test.mode == "detect" {
				if test.cloud == "" || test.budget.probes == 0 || test.budget.tokens > 0 {
					t.Errorf("%s: case %+v", c.name, test)
				}
				continue
			}
			if _, ok := ids[c.group()][test.by]; !ok || test.budget.tokens == 0 {
				t.Errorf("%s: case %+v", c.name, test)
			}
		}
	}
}

func TestSplitRequests(t *testing.T) {
	one := "GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
	two := "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nx\r\n"
	got, err := splitRequests([]byte(one + two + one))
	if err != nil || len(got) != 3 || got[0] != one || got[1] != two || got[2] != one {
		t.Errorf("%q, error %v", got, err)
	}
	if _, err := splitRequests([]byte(one + "\x16\x03")); err == nil {
		t.Error("what is no request is one")
	}
}
