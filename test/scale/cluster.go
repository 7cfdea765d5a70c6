package main

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// The pods of a node: some with the service accounts that every node has, as
// those of DaemonSets, and applications that ten nodes have in common.
const (
	podsPerNode     = 30
	commonAccounts  = 10
	appAccounts     = 10
	nodesPerApp     = 10
	accountsPerNode = commonAccounts + appAccounts
	writers         = 32 // requests at the same time while the cluster is filled
)

func nodeName(node int) string { return fmt.Sprintf("node-%d", node) }

// placeOf returns the namespace and the service account of a node's pod.
func placeOf(node, pod int) (namespace, account string) {
	if i := pod % accountsPerNode; i < appAccounts {
		return fmt.Sprintf("apps-%d", node/nodesPerApp), fmt.Sprintf("app-%d", i)
	}
	return "daemons", fmt.Sprintf("daemon-%d", pod%commonAccounts)
}

// fill makes what the nodes from first to last, exclusively, have.
func fill(ctx context.Context, client kubernetes.Interface, first, last int) error {
	seen := map[[2]string]bool{}
	var accounts [][2]string
	for node := first; node < last; node++ {
		for pod := range podsPerNode {
			namespace, account := placeOf(node, pod)
			if at := [2]string{namespace, account}; !seen[at] {
				seen[at] = true
				accounts = append(accounts, at)
			}
		}
	}
	for _, at := range accounts {
		if err := makeAccount(ctx, client, at[0], at[1]); err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for node := first; node < last; node++ {
		for pod := range podsPerNode {
			group.Go(func() error { return makePod(ctx, client, node, pod) })
		}
	}
	return group.Wait()
}

func makeAccount(ctx context.Context, client kubernetes.Interface, namespace, name string) error {
	meta := metav1.ObjectMeta{Name: namespace}
	_, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: meta}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: name,
		Annotations: map[string]string{workload.ClientIDAnnotation: "00000000-0000-0000-0000-000000000001"},
	}}
	_, err = client.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func podName(node, pod int) string { return fmt.Sprintf("pod-%d-%d", node, pod) }

func makePod(ctx context.Context, client kubernetes.Interface, node, pod int) error {
	namespace, account := placeOf(node, pod)
	_, err := client.CoreV1().Pods(namespace).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: podName(node, pod), Labels: map[string]string{workload.UseLabel: "true"},
		},
		Spec: corev1.PodSpec{
			NodeName: nodeName(node), ServiceAccountName: account,
			Containers: []corev1.Container{{Name: "app", Image: "app"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make pod %d of node %d: %w", pod, node, err)
	}
	return nil
}
