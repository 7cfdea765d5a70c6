package main

import (
	_ "embed"

	"github.com/sidestep-agent/sidestep/test/standins/federation"
)

//go:embed federation.yaml
var federationYAML []byte

// Names of identities that are no app's.
const (
	nodes      = "the node's"
	noIdentity = "none"
)

// names has the name of each identity by its object id.
type names map[string]string

func namesOf(f federation.File) names {
	n := names{"": noIdentity, f.NodeIdentity.PrincipalID: nodes}
	for _, i := range f.Identities {
		n[i.PrincipalID] = i.Name
	}
	return n
}

// of returns the name, or the object id itself if it is a stranger's.
func (n names) of(objectID string) string {
	if name, ok := n[objectID]; ok {
		return name
	}
	return objectID
}

// clientID returns the client id of an app's identity; none for no identity.
func clientID(f federation.File, name string) string {
	for _, i := range f.Identities {
		if i.Name == name {
			return i.ClientID
		}
	}
	return ""
}
