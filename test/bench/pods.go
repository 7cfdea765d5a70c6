package main

import (
	"context"
	"fmt"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
)

const (
	tenant    = "5f5f8e5a-6d3c-4d0a-9a44-4fae7e1d2f00"
	namespace = "shop"
	// vault is what pods ask tokens for.
	vault = "https://vault.azure.net"

	crowdPods       = 250
	crowdIdentities = 50
	// firsts is how many first tokens are asked for, each for a resource of its
	// own.
	firsts = 200
)

func id(kind, n int) string { return fmt.Sprintf("%08d-0000-4000-8000-%012d", kind, n) }

// account is the name of a service account, which has an identity.
func account(n int) string { return fmt.Sprintf("app-%d", n) }

// newWorkload returns a pod of a service account that does not run yet.
func newWorkload(name string, n int) *scene.Workload {
	return &scene.Workload{
		Namespace: namespace, Name: name, Account: account(n), AccountUID: id(3, n), Federated: true,
		Labels:      map[string]string{scene.UseLabel: "true"},
		Annotations: map[string]string{scene.ClientIDAnnotation: id(1, n)},
	}
}

func firstResource(n int) string { return fmt.Sprintf("%s/%d", vault, n) }

// newFederation returns the identities of all service accounts.
func newFederation() federation.File {
	resource := func(name string) string {
		return "/subscriptions/58a1e4c9-0d7b-4e36-a2f8-b9c6d3715e06/resourceGroups/lab" +
			"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" + name
	}
	file := federation.File{
		Issuer: scene.IssuerURL, Tenants: []string{tenant}, Resources: []string{vault},
		NodeIdentity: federation.NodeIdentity{
			TenantID: tenant, ClientID: id(8, 1), PrincipalID: id(9, 1), ResourceID: resource("node"),
		},
	}
	for n := range firsts + 1 {
		file.Resources = append(file.Resources, firstResource(n))
	}
	for n := range crowdIdentities {
		file.Identities = append(file.Identities, federation.Identity{
			Name: account(n), TenantID: tenant, ClientID: id(1, n), PrincipalID: id(2, n), ResourceID: resource(account(n)),
			FederatedCredentials: []federation.Credential{{Subject: "system:serviceaccount:" + namespace + ":" + account(n)}},
		})
	}
	return file
}

// openScene starts the agent, for one pod at first.
func openScene(ctx context.Context, o options) (*scene.Scene, *scene.Workload, error) {
	w := newWorkload("web", 0)
	s, err := scene.Open(ctx, scene.Options{
		Agent: o.agent, Federation: newFederation(), VaultName: "vault", Workloads: []*scene.Workload{w},
		// What the agent can do is asked for, and not what a pod may.
		Config: fmt.Sprintf("apiVersion: %s\nkind: %s\nlimits: {requestsPerSecond: 1000000, concurrent: 1000}\n",
			config.APIVersion, config.Kind),
	})
	return s, w, err
}

// tokenRequest is a request as a client sends it.
func tokenRequest(resource string) []byte {
	return []byte("GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + resource + " HTTP/1.1\r\n" +
		"Host: 169.254.169.254\r\nUser-Agent: azsdk-go-azidentity/v1.15.0 (go1.26.8; linux)\r\n" +
		"Metadata: true\r\nAccept-Encoding: gzip\r\n\r\n")
}
