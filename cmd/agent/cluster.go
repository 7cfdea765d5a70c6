package main

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	eventsv1 "k8s.io/client-go/tools/events"
)

// newClient returns a client of the cluster that the kubeconfig names, or of
// the one that the agent runs in.
func newClient(kubeconfig string) (kubernetes.Interface, error) {
	c, err := clusterConfig(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("configure the API client: %w", err)
	}
	// Each service account in use costs a list and a watch at the start.
	c.QPS, c.Burst = 50, 100
	c.UserAgent = "sidestep-agent/" + version
	c.ContentType = "application/vnd.kubernetes.protobuf"
	c.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	return kubernetes.NewForConfig(c)
}

func clusterConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", kubeconfig)
}

// events tells people through the cluster what they should mend.
type events struct {
	broadcaster eventsv1.EventBroadcaster
	recorder    eventsv1.EventRecorder
	node        *corev1.ObjectReference
}

func newEvents(client kubernetes.Interface, node string) *events {
	broadcaster := eventsv1.NewBroadcaster(&eventsv1.EventSinkImpl{Interface: client.EventsV1()})
	return &events{
		broadcaster: broadcaster,
		recorder:    broadcaster.NewRecorder(scheme.Scheme, "sidestep-agent"),
		// The kubelet's own events name nodes by the name in place of the UID.
		node: &corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: node, UID: types.UID(node)},
	}
}

// Run sends events until ctx ends.
func (e *events) Run(ctx context.Context) error {
	if err := e.broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	e.broadcaster.Shutdown()
	return nil
}

// configurationRefused reports a bad new configuration; the old one stays.
func (e *events) configurationRefused(err error) {
	e.recorder.Eventf(e.node, nil, corev1.EventTypeWarning, "ConfigurationRefused", "Reload",
		"The agent's configuration was not applied, the last good one stays: %v", err)
}
