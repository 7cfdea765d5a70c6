package main

import (
	"fmt"

	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// target says which cluster is asked, in kubectl's own flags, and where in it
// the agents are.
type target struct {
	rules          *clientcmd.ClientConfigLoadingRules
	overrides      clientcmd.ConfigOverrides
	agentNamespace string
}

func (t *target) add(flags *pflag.FlagSet) {
	t.rules = clientcmd.NewDefaultClientConfigLoadingRules()
	flags.StringVar(&t.rules.ExplicitPath, "kubeconfig", "", "path of the kubeconfig file")
	names := clientcmd.RecommendedConfigOverrideFlags("")
	clientcmd.BindOverrideFlags(&t.overrides, flags, names)
	flags.StringVar(&t.agentNamespace, "agent-namespace", "sidestep-system", "the namespace that the agents are in")
}

// open returns the cluster and the namespace that pods without one are in.
func (t *target) open() (*cluster, string, error) {
	config := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(t.rules, &t.overrides)
	namespace, _, err := config.Namespace()
	if err != nil {
		return nil, "", fmt.Errorf("read the kubeconfig: %w", err)
	}
	rest, err := config.ClientConfig()
	if err != nil {
		return nil, "", fmt.Errorf("read the kubeconfig: %w", err)
	}
	rest.UserAgent = "kubectl-sidestep/" + version
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return nil, "", fmt.Errorf("configure the API client: %w", err)
	}
	return &cluster{
		client: client, agentNamespace: t.agentNamespace,
		run: podExec{client: client, config: rest}.run,
	}, namespace, nil
}
