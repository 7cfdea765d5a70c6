package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/sidestep-agent/sidestep/pkg/status"
)

// agentSelector and agentContainer name the agents as the manifests do.
const (
	agentSelector  = "app.kubernetes.io/name=sidestep-agent"
	agentContainer = "agent"
)

// errNoAgent is returned where no agent's pod is on a node.
var errNoAgent = errors.New("no agent runs on the node")

// cluster answers what the commands ask of Kubernetes and of the agents.
type cluster struct {
	client         kubernetes.Interface
	agentNamespace string
	// run runs a command in a pod's container and returns what it wrote.
	run func(ctx context.Context, namespace, pod, container string, command ...string) ([]byte, error)
}

// agents returns the agents' pods, of one node or, where node is "", of all.
func (c *cluster) agents(ctx context.Context, node string) ([]corev1.Pod, error) {
	options := metav1.ListOptions{LabelSelector: agentSelector}
	if node != "" {
		options.FieldSelector = "spec.nodeName=" + node
	}
	list, err := c.client.CoreV1().Pods(c.agentNamespace).List(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("list the agents: %w", err)
	}
	return list.Items, nil
}

// report returns what the agent in the pod says about its node.
func (c *cluster) report(ctx context.Context, agent string) (status.Report, error) {
	var r status.Report
	out, err := c.run(ctx, c.agentNamespace, agent, agentContainer, "/agent", "status", "--output", "json")
	if err != nil {
		return r, fmt.Errorf("ask %s: %w", agent, err)
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return r, fmt.Errorf("read what %s says: %w", agent, err)
	}
	return r, nil
}

// agentOf returns the agent that serves the node, with its report. While one
// agent takes over from another there are two, and each of them tells of the
// one that serves. It returns errNoAgent if there is none.
func (c *cluster) agentOf(ctx context.Context, node string) (string, status.Report, error) {
	agents, err := c.agents(ctx, node)
	if err != nil {
		return "", status.Report{}, err
	}
	err = errNoAgent
	for _, a := range agents {
		var r status.Report
		if r, err = c.report(ctx, a.Name); err == nil {
			return a.Name, r, nil
		}
	}
	return "", status.Report{}, err
}

// account returns a service account, nil if there is none.
func (c *cluster) account(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	a, err := c.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the service account: %w", err)
	}
	return a, nil
}

// owner is what recreates a pod when its template changes.
type owner struct{ kind, name string }

// ownerOf returns the Deployment, StatefulSet or other controller of the pod.
// A pod without one is its own.
func (c *cluster) ownerOf(ctx context.Context, pod *corev1.Pod) owner {
	ref := metav1.GetControllerOf(pod)
	if ref == nil {
		return owner{"pod", pod.Name}
	}
	if ref.Kind == "ReplicaSet" {
		set, err := c.client.AppsV1().ReplicaSets(pod.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err == nil && metav1.GetControllerOf(set) != nil {
			ref = metav1.GetControllerOf(set)
		}
	}
	return owner{strings.ToLower(ref.Kind), ref.Name}
}
