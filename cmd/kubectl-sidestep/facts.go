package main

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sidestep-agent/sidestep/pkg/status"
)

// facts are all that is known of one pod: what Kubernetes says, and what the
// agent of its node says.
type facts struct {
	pod     *corev1.Pod
	account *corev1.ServiceAccount // nil: there is none
	owner   owner

	agentNamespace string
	agent          string // its pod; empty if agentErr is not nil
	agentErr       error
	report         status.Report
	seen           *status.Pod           // the pod in the report; nil: it is not there
	exchange       status.ServiceAccount // the last of any pod of the service account
}

// gather asks for everything once. That the agent does not answer is a fact,
// and no error.
func (c *cluster) gather(ctx context.Context, namespace, name string) (*facts, error) {
	pod, err := c.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("there is no pod %s in namespace %s: name another with --namespace", name, namespace)
	}
	if err != nil {
		return nil, fmt.Errorf("read the pod: %w", err)
	}
	f := &facts{pod: pod, agentNamespace: c.agentNamespace, owner: c.ownerOf(ctx, pod)}
	if f.account, err = c.account(ctx, namespace, pod.Spec.ServiceAccountName); err != nil {
		return nil, err
	}
	if pod.Spec.NodeName == "" {
		f.agentErr = errors.New("the pod is on no node yet")
		return f, nil
	}
	f.agent, f.report, f.agentErr = c.agentOf(ctx, pod.Spec.NodeName)
	f.find()
	return f, nil
}

// token returns how the pod's last request for a token was answered; nil: it has
// made none.
func (f *facts) token() *status.Answer {
	if f.seen == nil {
		return nil
	}
	return f.seen.Token
}

// find looks the pod and its service account up in the report.
func (f *facts) find() {
	for i, p := range f.report.Pods {
		if p.Namespace == f.pod.Namespace && p.Name == f.pod.Name {
			f.seen = &f.report.Pods[i]
		}
	}
	for _, a := range f.report.ServiceAccounts {
		if a.Namespace == f.pod.Namespace && a.Name == f.pod.Spec.ServiceAccountName {
			f.exchange = a
		}
	}
}
