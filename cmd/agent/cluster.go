package main

import (
	"fmt"
	"net"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/transport"
)

// newClients returns clients of the cluster that the kubeconfig names, or of
// the one that the agent runs in. The second is for kinds of objects that the
// cluster may not have.
func newClients(kubeconfig string) (kubernetes.Interface, dynamic.Interface, error) {
	c, err := clusterConfig(kubeconfig)
	if err != nil {
		return nil, nil, fmt.Errorf("configure the API client: %w", err)
	}
	if c.BearerTokenFile != "" {
		// client-go's own goes on with a token that is refused for up to a
		// minute before it looks for another in the file.
		c.Wrap(transport.ResettableTokenSourceWrapTransport(transport.NewCachedFileTokenSource(c.BearerTokenFile)))
		c.BearerToken, c.BearerTokenFile = "", ""
	}
	// Each service account in use costs a list and a watch at the start.
	c.QPS, c.Burst = 50, 100
	c.UserAgent = "sidestep-agent/" + version
	custom, err := dynamic.NewForConfig(c)
	if err != nil {
		return nil, nil, fmt.Errorf("make the client of custom resources: %w", err)
	}
	c.ContentType = "application/vnd.kubernetes.protobuf"
	c.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	client, err := kubernetes.NewForConfig(c)
	return client, custom, err
}

func clusterConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", kubeconfig)
}

// apiServerAddress returns the host and port at which the API server is
// reached.
func apiServerAddress(kubeconfig string) (string, error) {
	c, err := clusterConfig(kubeconfig)
	if err != nil {
		return "", fmt.Errorf("configure the API client: %w", err)
	}
	at, _, err := rest.DefaultServerUrlFor(c)
	if err != nil {
		return "", fmt.Errorf("address of the API server: %w", err)
	}
	port := at.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(at.Hostname(), port), nil
}
