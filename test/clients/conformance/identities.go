package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
)

//go:embed federation.yaml
var federationYAML []byte

const vaultName = "clients"

// namespace is that of the clients' pods.
const namespace = "clients"

// identities has the identity that is meant by each way to name one.
type identities map[string]federation.Identity

// uses are the ways to name an identity, by the end of the identity's name.
var uses = map[string]string{
	"default": "none", "by-client": "client", "by-object": "object", "by-resource": "resource",
}

// openFederation returns the federation file with the clients' service
// accounts federated to each identity that they ask for, and the identities by
// the clients' group and by their use.
func openFederation(clients []client) (federation.File, map[string]identities, error) {
	file, err := federation.Parse(federationYAML)
	if err != nil {
		return federation.File{}, nil, err
	}
	known := map[string]identities{}
	for i := range file.Identities {
		own := &file.Identities[i]
		group, end, _ := strings.Cut(own.Name, "-")
		for _, c := range clients {
			if c.group() == group && c.names(uses[end]) {
				own.FederatedCredentials = append(own.FederatedCredentials, federation.Credential{Subject: c.subject()})
			}
		}
		if known[group] == nil {
			known[group] = identities{}
		}
		known[group][uses[end]] = *own
	}
	return file, known, nil
}

func (c client) subject() string { return "system:serviceaccount:" + namespace + ":" + c.short }

// id returns what the client is given to ask for the identity. ARM ids are
// equal whatever their case, and people copy them from places that differ.
func (ids identities) id(by string) string {
	i := ids[by]
	switch by {
	case "client":
		return i.ClientID
	case "object":
		return i.PrincipalID
	case "resource":
		return strings.Replace(i.ResourceID, "/resourceGroups/apps/", "/resourcegroups/APPS/", 1)
	}
	return ""
}

// pod returns the client's pod, whose service account knows all identities.
func (ids identities) pod(c client) *scene.Workload {
	return &scene.Workload{
		Namespace: namespace, Name: c.short, Account: c.short, Federated: true,
		Labels: map[string]string{scene.UseLabel: "true"},
		Annotations: map[string]string{
			scene.ClientIDAnnotation:   ids["none"].ClientID,
			scene.IdentitiesAnnotation: ids.mapping("client", "object", "resource"),
		},
	}
}

// mapping returns the annotation that maps those identities.
func (ids identities) mapping(uses ...string) string {
	list := []workload.MappedIdentity{}
	for _, use := range uses {
		i := ids[use]
		list = append(list, workload.MappedIdentity{ClientID: i.ClientID, ResourceID: i.ResourceID, PrincipalID: i.PrincipalID})
	}
	text, err := json.Marshal(list)
	if err != nil {
		panic(fmt.Errorf("strings always encode: %w", err))
	}
	return string(text)
}
