// Command cloud-provider-0.29.15 asks the metadata service for the machine as
// Kubernetes' cloud provider for Azure does on each node. The module
// cloud-provider-azure took this client over from Kubernetes itself; here it is
// in the last release that Kubernetes had it in.
package main

import (
	"context"
	"errors"

	"k8s.io/legacy-cloud-providers/azure"
	"k8s.io/legacy-cloud-providers/azure/cache"

	"github.com/sidestep-agent/sidestep/test/clients/go/client"
)

// server is the one that the cloud provider has in a constant of its own.
const server = "http://169.254.169.254"

func main() {
	client.Detect(map[string]func(context.Context) (string, error){"instance": instance})
}

// instance returns what a node is registered by: its name and its address.
func instance(context.Context) (string, error) {
	service, err := azure.NewInstanceMetadataService(server)
	if err != nil {
		return "", err
	}
	found, err := service.GetMetadata(cache.CacheReadTypeUnsafe)
	switch {
	case err != nil:
		return "", err
	case found.Compute == nil || found.Network == nil || len(found.Network.Interface) == 0:
		return "", errors.New("the instance has no name or no network")
	}
	addresses := found.Network.Interface[0].IPV4.IPAddress
	if len(addresses) == 0 {
		return "", errors.New("the instance has no IPv4 address")
	}
	return "azure " + found.Compute.Name + " " + addresses[0].PrivateIP, nil
}
