package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sidestep-agent/sidestep/test/load"
	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
)

const (
	tenant       = "5f5f8e5a-6d3c-4d0a-9a44-4fae7e1d2f00"
	standingPods = 4
	// churners make pods at the same time, each of so many names, that a service
	// account goes unused for longer than the agent watches it then, and each
	// at so few addresses, that pods soon have those of others.
	churners  = 3
	names     = 80
	addresses = 8
)

// The namespaces.
const (
	shop   = "shop"   // pods that stay
	churn  = "churn"  // pods that come and go
	system = "system" // an excepted pod
	aside  = "aside"  // a pod that the configuration includes now and then
)

// What identities are for: the first part of their ids.
const (
	ofStanding = 1 + iota
	ofChurned
	ofChanged // what a churned pod's service account becomes
	ofBystander
	ofNode
)

func clientID(kind, n int) string { return fmt.Sprintf("%08d-0000-4000-8000-%012d", kind, n) }

func standingName(n int) string { return fmt.Sprintf("app-%d", n) }

func churnedName(n int) string { return fmt.Sprintf("job-%d", n) }

// directory returns what Entra knows.
func directory() federation.File {
	file := federation.File{
		Issuer: scene.IssuerURL, Tenants: []string{tenant}, Resources: []string{"https://vault.azure.net"},
		NodeIdentity: federation.NodeIdentity{
			TenantID: tenant, ClientID: clientID(ofNode, 0), PrincipalID: clientID(90+ofNode, 0), ResourceID: resourceID(ofNode, 0),
		},
	}
	add := func(kind, n int, namespace, account string) {
		file.Identities = append(file.Identities, federation.Identity{
			Name: fmt.Sprintf("%s-%d", account, kind), TenantID: tenant,
			ClientID: clientID(kind, n), PrincipalID: clientID(90+kind, n), ResourceID: resourceID(kind, n),
			FederatedCredentials: []federation.Credential{{Subject: "system:serviceaccount:" + namespace + ":" + account}},
		})
	}
	for n := range standingPods {
		add(ofStanding, n, shop, standingName(n))
	}
	for n := range churners * names {
		add(ofChurned, n, churn, churnedName(n))
		add(ofChanged, n, churn, churnedName(n))
	}
	add(ofBystander, 0, aside, "bystander")
	return file
}

func resourceID(kind, n int) string {
	return fmt.Sprintf("/subscriptions/58a1e4c9-0d7b-4e36-a2f8-b9c6d3715e06/resourceGroups/lab"+
		"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/soak-%d-%d", kind, n)
}

// steeredPod returns a labelled pod with a service account of its name.
func steeredPod(namespace, name, client string) *scene.Workload {
	return &scene.Workload{
		Namespace: namespace, Name: name, Account: name, Federated: true,
		Labels:      map[string]string{scene.UseLabel: "true", "app": name},
		Annotations: identity(client),
	}
}

func identity(client string) map[string]string {
	return map[string]string{scene.ClientIDAnnotation: client}
}

// openScene returns a scene with the pods that stay: those that are steered,
// one that passes, by an exception, and a bystander.
func openScene(ctx context.Context, agent string) (*scene.Scene, []*scene.Workload, error) {
	var standing []*scene.Workload
	for n := range standingPods {
		standing = append(standing, steeredPod(shop, standingName(n), clientID(ofStanding, n)))
	}
	excepted := &scene.Workload{
		Namespace: system, Name: "metadata", Account: "metadata",
		Labels: map[string]string{scene.UseLabel: "true", "app": "metadata"},
	}
	bystander := steeredPod(aside, "bystander", clientID(ofBystander, 0))
	standing = append(standing, excepted)
	s, err := scene.Open(ctx, scene.Options{
		Agent: agent, Federation: directory(), VaultName: "vault", Workloads: append(standing, bystander),
		RefreshIn: refreshIn,
	})
	if err != nil {
		return nil, nil, err
	}
	if err = s.Agent.WriteConfig(plainConfig); err == nil {
		err = served(ctx, standing)
	}
	if err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	return s, standing, nil
}

// whose returns the client id of the pod's right token.
func whose(w *scene.Workload) string {
	if client, ok := w.Annotations[scene.ClientIDAnnotation]; ok {
		return client
	}
	return clientID(ofNode, 0)
}

// served waits until each of the pods gets its token, from the cache the next
// time.
func served(ctx context.Context, all []*scene.Workload) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, w := range all {
		for {
			t, err := w.Ask(ctx, "", load.Options{
				Workers: 1, Requests: 1, Every: time.Second, Idle: time.Second, Client: whose(w),
			})
			if err != nil {
				return err
			}
			if t.Bad() == 0 {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("pod %s is not served: %q", w, t.Notes)
			}
		}
	}
	return nil
}
