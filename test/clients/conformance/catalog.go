package main

import (
	"fmt"
	"path/filepath"
	"runtime"
)

// client is a program that gets tokens with some library.
type client struct {
	name    string // as the table shows it
	short   string // as its pod, service account and record are named
	command []string
	vault   bool // it also uses the vault
	cases   []testCase
}

// testCase is one way to ask.
type testCase struct {
	mode   string // "managed": the library's managed identity; "default": its default chain
	by     string // "none", "client", "object" or "resource": how the identity is named
	budget budget
}

func (c testCase) String() string {
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
		cases = append(cases, testCase{"managed", by, b})
	}
	return cases
}

// chain returns the cases of the default chain.
func chain(b budget, by ...string) []testCase {
	var cases []testCase
	for _, by := range by {
		cases = append(cases, testCase{"default", by, b})
	}
	return cases
}

func both(a, b []testCase) []testCase { return append(a, b...) }

// catalog returns the clients installed in a directory.
func catalog(dir string) []client {
	return append(append(goClients(dir), nodeClients(dir)...), pythonClients(dir)...)
}

func goClients(dir string) []client {
	program := func(name string) []string { return []string{filepath.Join(dir, "go", name)} }
	return []client{
		{
			name: "azidentity (Go) 1.15.0", short: "azidentity-go-1.15.0", command: program("azidentity-1.15.0"),
			cases: both(managed(cached, all...), chain(probing, "none", "client")),
		},
		{
			name: "azidentity (Go) 1.5.2", short: "azidentity-go-1.5.2", command: program("azidentity-1.5.2"),
			cases: both(managed(cached, "none", "client", "resource"), chain(cached, "none", "client")),
		},
		{
			name: "azidentity (Go) 1.0.0", short: "azidentity-go-1.0.0", command: program("azidentity-1.0.0"),
			cases: both(managed(uncached, "none", "client", "resource"), chain(uncached, "none", "client")),
		},
		{
			name: "MSAL Go managedidentity 1.10.1", short: "msal-go-1.10.1", command: program("msal-1.10.1"),
			cases: managed(cached, all...),
		},
		{
			name: "go-autorest adal 0.9.24", short: "adal-go-0.9.24", command: program("adal-0.9.24"),
			cases: both(managed(cached, "none", "client", "resource"), chain(probing, "none")),
		},
		{
			name: "hashicorp go-azure-sdk 0.20260811", short: "hashicorp-0.20260811", command: program("hashicorp-0.20260811"),
			cases: managed(cached, "none", "client"),
		},
	}
}

func nodeClients(dir string) []client {
	arch := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	node := filepath.Join(dir, "npm/node/node_modules", "node-linux-"+arch, "bin/node")
	program := func(name string) []string { return []string{node, filepath.Join(dir, "npm", name, "client.cjs")} }
	return []client{
		{
			name: "@azure/identity 4.14.1", short: "azure-identity-js-4.14.1", command: program("identity-4.14.1"),
			cases: both(managed(cached, all...), chain(probingTwice, "none", "client", "resource")),
		},
		{
			name: "@azure/identity 3.4.2", short: "azure-identity-js-3.4.2", command: program("identity-3.4.2"),
			cases: both(managed(probing, "none", "client", "resource"), chain(probing, "none", "client", "resource")),
		},
		{
			name: "@azure/identity 2.1.0", short: "azure-identity-js-2.1.0", command: program("identity-2.1.0"),
			cases: both(managed(probingOnce, "none", "client", "resource"), chain(probingOnce, "none", "client")),
		},
		{
			name: "@azure/identity 1.5.2", short: "azure-identity-js-1.5.2", command: program("identity-1.5.2"),
			cases: both(managed(probingOnce, "none", "client"), chain(probingOnce, "none", "client")),
		},
		{
			name: "@azure/ms-rest-nodeauth 3.1.1", short: "ms-rest-nodeauth-3.1.1", command: program("ms-rest-nodeauth-3.1.1"),
			cases: managed(uncached, all...),
		},
		{
			name: "@azure/msal-node 7.2.1", short: "msal-node-7.2.1", command: program("msal-node-7.2.1"),
			cases: managed(cached, all...),
		},
	}
}

func pythonClients(dir string) []client {
	// Debian's own Python: another on the machine lacks Debian's packages.
	program := func(name string) []string { return []string{"/usr/bin/python3", filepath.Join(dir, "python", name)} }
	return []client{
		{
			name: "azure-identity (Python) 1.13.0b2", short: "azure-identity-py", vault: true, command: program("identity_client.py"),
			cases: both(managed(probing, all...), chain(probing, "none", "client")),
		},
		{
			name: "azure-identity aio (Python) 1.13.0b2", short: "azure-identity-py-aio", vault: true, command: program("identity_aio_client.py"),
			cases: both(managed(probing, all...), chain(probing, "none", "client")),
		},
		{
			name: "msrestazure 0.6.4", short: "msrestazure-0.6.4", command: program("msrestazure_client.py"),
			cases: managed(cached, all...),
		},
		{
			name: "az 2.45.0", short: "az-2.45.0", command: []string{filepath.Join(dir, "az/client.sh")},
			cases: []testCase{
				{"managed", "none", budget{tokens: 3}}, // login, and one for each token
				{"managed", "client", budget{tokens: 3}},
				{"managed", "object", budget{refusals: 1, tokens: 3}}, // tried as a client id first
				{"managed", "resource", budget{tokens: 3}},
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
