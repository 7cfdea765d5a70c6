package daemon

import (
	"fmt"
	"net"
	"net/http"
	"net/url"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/transport"
)

// NewClients returns clients of the cluster that the kubeconfig names, or of
// the one that the agent runs in. The second is for kinds of objects that the
// cluster may not have.
func NewClients(kubeconfig, version string) (kubernetes.Interface, dynamic.Interface, error) {
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
	// One for both: client-go shares no connection where a proxy is set.
	h, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, nil, fmt.Errorf("configure the API client: %w", err)
	}
	custom, err := dynamic.NewForConfigAndClient(c, h)
	if err != nil {
		return nil, nil, fmt.Errorf("make the client of custom resources: %w", err)
	}
	c.ContentType = "application/vnd.kubernetes.protobuf"
	c.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	client, err := kubernetes.NewForConfigAndClient(c, h)
	return client, custom, err
}

// clusterConfig returns how to reach the API server: through the proxy that
// the kubeconfig names, else directly. HTTPS_PROXY is for Entra: a proxy to the
// world outside seldom reaches the cluster's own addresses.
func clusterConfig(kubeconfig string) (c *rest.Config, err error) {
	if kubeconfig == "" {
		c, err = rest.InClusterConfig()
	} else {
		c, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	if err == nil && c.Proxy == nil {
		c.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	}
	return c, err
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
