package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/sidestep-agent/sidestep/test/standins/imds"
	"github.com/sidestep-agent/sidestep/test/standins/vault"
)

// client is a program that gets tokens with some library.
type client struct {
	name    string // as the table shows it
	short   string // as its pod, service account and record are named
	command []string
	vault   bool // it also uses the vault
	blobs   bool // it also writes and reads a blob
	zone    bool // it also publishes a record in a DNS zone, and removes it
	silent  bool // it shows no token: they are read where it sends them
	program bool // it is a program, or what one is built on
	cases   []testCase
	// resource is what its tokens are for; empty: the vault's.
	resource string
	// waits and retries are how long it waits for IMDS and when it tries again,
	// as its source has it. No request shows that; the files of requests do.
	waits, retries string
}

// names reports whether the client asks for the identity that is named so.
func (c client) names(by string) bool {
	return slices.ContainsFunc(c.cases, func(t testCase) bool { return t.by == by })
}

// group returns how the names of the client's identities begin. An identity has
// room for 20 clients.
func (c client) group() string {
	if c.program {
		return "program"
	}
	return "app"
}

// audience returns what the client's tokens are for.
func (c client) audience() string { return cmp.Or(c.resource, vault.Resource) }

// testCase is one way to ask.
type testCase struct {
	// mode is "managed" for the library's managed identity, "default" for its
	// default chain, and "detect" for what only looks for the cloud it runs in.
	mode   string
	by     string // "none", "client", "object" or "resource": how the identity is named; or the detector
	budget budget
	cloud  string // what the detector must find
}

func (c testCase) String() string {
	if c.mode == "detect" {
		return "detector " + c.by
	}
	name := map[string]string{
		"none": "default identity", "client": "client_id", "object": "object_id", "resource": "resource id",
	}[c.by]
	if c.mode == "default" {
		return "default chain, " + name
	}
	return name
}

// budget is how many requests the client makes of IMDS itself for two tokens
// (FIELD measurements of each library): more would mean that an answer of the
// broker made it ask again.
type budget struct {
	probes   int // without the header, or for what IMDS does not have: 400 or 404
	refusals int // for an identity by a name that it does not have: 400
	tokens   int // 200
}

// Budgets that many clients have.
var (
	cached       = budget{tokens: 1}
	probing      = budget{probes: 1, tokens: 1}
	probingTwice = budget{probes: 2, tokens: 1} // before it looks into its cache
	uncached     = budget{tokens: 2}
	probingOnce  = budget{probes: 1, tokens: 2} // and no cache
)

// all are the ways to name an identity.
var all = []string{"none", "client", "object", "resource"}

// managed returns the cases of the managed identity credential.
func managed(b budget, by ...string) []testCase {
	var cases []testCase
	for _, by := range by {
		cases = append(cases, testCase{mode: "managed", by: by, budget: b})
	}
	return cases
}

// chain returns the cases of the default chain.
func chain(b budget, by ...string) []testCase {
	var cases []testCase
	for _, by := range by {
		cases = append(cases, testCase{mode: "default", by: by, budget: b})
	}
	return cases
}

// What detectors may find: the stand-in's instance, or no cloud of theirs.
var (
	thisVM  = "azure " + imds.DefaultInstance.VMID
	noCloud = "none"
)

// detect returns the case of a detector, which asks so often.
func detect(by, cloud string, requests int) testCase {
	return testCase{mode: "detect", by: by, cloud: cloud, budget: budget{probes: requests}}
}

func both(a, b []testCase) []testCase { return append(a, b...) }

// catalog returns the clients installed in a directory.
func catalog(dir string) []client {
	return slices.Concat(goClients(dir), nodeClients(dir), pythonClients(dir), programs(dir), detectors(dir))
}

func goClients(dir string) []client {
	program := func(name string) []string { return []string{filepath.Join(dir, "go", name)} }
	return []client{
		{
			name: "azidentity (Go) 1.15.0", short: "azidentity-go-1.15.0", command: program("azidentity-1.15.0"),
			waits:   "1 s for the default chain's probe, 1 min for each try for a token",
			retries: "6 times after 404, 410, 429 and 5xx, 2 to 25 s apart; the probe never",
			cases:   both(managed(cached, all...), chain(probing, "none", "client")),
		},
		{
			name: "azidentity (Go) 1.5.2", short: "azidentity-go-1.5.2", command: program("azidentity-1.5.2"),
			waits:   "1 s for the default chain's first request, 1 min for each other try",
			retries: "5 times after 404, 410, 429 and 5xx, 2 s to 1 min apart",
			cases:   both(managed(cached, "none", "client", "resource"), chain(cached, "none", "client")),
		},
		{
			name: "azidentity (Go) 1.0.0", short: "azidentity-go-1.0.0", command: program("azidentity-1.0.0"),
			waits:   "1 s for the default chain's first request, 1 min for each other try",
			retries: "5 times after 404, 429 and 5xx but 503, 2 s to 1 min apart",
			cases:   both(managed(uncached, "none", "client", "resource"), chain(uncached, "none", "client")),
		},
		{
			name: "MSAL Go managedidentity 1.10.1", short: "msal-go-1.10.1", command: program("msal-1.10.1"),
			waits:   "1 min for each try",
			retries: "twice after 404, 410, 429 and 5xx, 1 s apart",
			cases:   managed(cached, all...),
		},
		{
			name: "go-autorest adal 0.9.24", short: "adal-go-0.9.24", command: program("adal-0.9.24"),
			waits:   "2 s for MSIAvailable, no limit for a token",
			retries: "up to 5 tries after 404, 408, 410, 429 and 5xx, ever longer apart, 1 min at most",
			cases:   both(managed(cached, "none", "client", "resource"), chain(probing, "none")),
		},
		{
			name: "hashicorp go-azure-sdk 0.20260811", short: "hashicorp-0.20260811", command: program("hashicorp-0.20260811"),
			waits:   "no limit of its own",
			retries: "5 times after 429 and 5xx, 2 s to 1 min apart",
			cases:   managed(cached, "none", "client"),
		},
	}
}

// node returns Node.js, as it is installed in a directory.
func node(dir string) string {
	arch := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	return filepath.Join(dir, "npm/node/node_modules", "node-linux-"+arch, "bin/node")
}

func nodeClient(dir, name string) []string {
	return []string{node(dir), filepath.Join(dir, "npm", name, "client.cjs")}
}

func nodeClients(dir string) []client {
	program := func(name string) []string { return nodeClient(dir, name) }
	return []client{
		{
			name: "@azure/identity 4.14.1", short: "azure-identity-js-4.14.1", command: program("identity-4.14.1"),
			waits:   "1 s for the probe, no limit for a token",
			retries: "3 times after 404, 0.8 s apart at first, and after 410, 3 s apart at least; after 429 with Retry-After",
			cases:   both(managed(cached, all...), chain(probingTwice, "none", "client", "resource")),
		},
		{
			name: "@azure/identity 3.4.2", short: "azure-identity-js-3.4.2", command: program("identity-3.4.2"),
			waits:   "1 s for the probe, no limit for a token",
			retries: "3 times after 404, 0.8 s apart at first; after 429 with Retry-After",
			cases:   both(managed(probing, "none", "client", "resource"), chain(probing, "none", "client", "resource")),
		},
		{
			name: "@azure/identity 2.1.0", short: "azure-identity-js-2.1.0", command: program("identity-2.1.0"),
			waits:   "300 ms for the probe, no limit for a token",
			retries: "3 times after 404, 0.8 s apart at first; after 429 with Retry-After",
			cases:   both(managed(probingOnce, "none", "client", "resource"), chain(probingOnce, "none", "client")),
		},
		{
			name: "@azure/identity 1.5.2", short: "azure-identity-js-1.5.2", command: program("identity-1.5.2"),
			waits:   "300 ms for the probe, no limit for a token",
			retries: "3 times after 404, 0.8 s apart at first",
			cases:   both(managed(probingOnce, "none", "client"), chain(probingOnce, "none", "client")),
		},
		{
			name: "@azure/ms-rest-nodeauth 3.1.1", short: "ms-rest-nodeauth-3.1.1", command: program("ms-rest-nodeauth-3.1.1"),
			waits:   "no limit of its own",
			retries: "never, and the status is not looked at",
			cases:   managed(uncached, all...),
		},
		{
			name: "@azure/msal-node 7.2.1", short: "msal-node-7.2.1", command: program("msal-node-7.2.1"),
			waits:   "no limit of its own",
			retries: "3 times after 404, 408, 429 and 5xx, 1 to 4 s apart; 7 times after 410, 10 s apart",
			cases:   managed(cached, all...),
		},
		{
			name: "@azure/msal-node 2.16.3", short: "msal-node-2.16.3", command: program("msal-node-2.16.3"),
			waits:   "no limit of its own",
			retries: "3 times after 404, 408, 429 and some 5xx, 1 s apart",
			cases:   managed(cached, all...),
		},
	}
}

func pythonClients(dir string) []client {
	// Debian's own Python: another on the machine lacks Debian's packages.
	program := func(name string) []string { return []string{"/usr/bin/python3", filepath.Join(dir, "python", name)} }
	return []client{
		{
			name: "azure-identity (Python) 1.13.0b2", short: "azure-identity-py", vault: true, command: program("identity_client.py"),
			waits:   "0.3 s to connect for the probe, 2 s to connect for a token",
			retries: "5 times after 404, 429 and 5xx, up to 1 min apart; the probe never",
			cases:   both(managed(probing, all...), chain(probing, "none", "client")),
		},
		{
			name: "azure-identity aio (Python) 1.13.0b2", short: "azure-identity-py-aio", vault: true, command: program("identity_aio_client.py"),
			waits:   "0.3 s to connect for the probe, 2 s to connect for a token",
			retries: "5 times after 404, 429 and 5xx, up to 1 min apart; the probe never",
			cases:   both(managed(probing, all...), chain(probing, "none", "client")),
		},
		{
			name: "msrestazure 0.6.4", short: "msrestazure-0.6.4", command: program("msrestazure_client.py"),
			waits:   "no limit of its own",
			retries: "12 times after 404, 410, 429 and 5xx, by chance up to minutes apart",
			cases:   managed(cached, all...),
		},
		{
			name: "az 2.45.0", short: "az-2.45.0", command: []string{filepath.Join(dir, "az/client.sh")},
			waits:   "no limit of its own",
			retries: "12 times after 404, 410, 429 and 5xx, by chance up to minutes apart (msrestazure)",
			cases: []testCase{
				{mode: "managed", by: "none", budget: budget{tokens: 3}}, // login, and one for each token
				{mode: "managed", by: "client", budget: budget{tokens: 3}},
				{mode: "managed", by: "object", budget: budget{refusals: 1, tokens: 3}}, // tried as a client id first
				{mode: "managed", by: "resource", budget: budget{tokens: 3}},
			},
		},
	}
}

// String returns the budget for people.
func (b budget) String() string {
	s := fmt.Sprintf("%d", b.tokens)
	if b.probes > 0 {
		s += fmt.Sprintf("+%d probe", b.probes)
	}
	if b.refusals > 0 {
		s += fmt.Sprintf("+%d refused", b.refusals)
	}
	return s
}
