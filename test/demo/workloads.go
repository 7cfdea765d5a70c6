package main

import (
	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
)

// workload is one pod of the demo.
type workload struct {
	*scene.Workload
	identity string // the app's identity that its service account names; empty: none
}

// labelled reports whether the pod bears the label that has it steered.
func (w *workload) labelled() bool { return w.Labels[scene.UseLabel] == "true" }

// exempt reports whether the configuration's default exception holds for the
// pod.
func (w *workload) exempt() bool { return w.Labels[exemptLabel] == "aks" }

const exemptLabel = "kubernetes.azure.com/managedby"

// podSet is all of the demo's pods.
type podSet struct {
	one, two, exempt, unlabelled *workload
}

// newPods returns the pods, not started. Those that have an identity bear the
// label, and their service account names the identity's client id.
func newPods(f federation.File) podSet {
	own := func(namespace, name, identity string) *workload {
		return &workload{&scene.Workload{
			Namespace: namespace, Name: name, Account: name, Federated: true,
			Labels:      map[string]string{scene.UseLabel: "true"},
			Annotations: map[string]string{scene.ClientIDAnnotation: clientID(f, identity)},
		}, identity}
	}
	return podSet{
		one: own("team-a", "web", "app-one"),
		two: own("team-b", "report", "app-two"),
		exempt: &workload{Workload: &scene.Workload{
			Namespace: "kube-system", Name: "csi", Account: "csi", Labels: map[string]string{exemptLabel: "aks"},
		}},
		unlabelled: &workload{Workload: &scene.Workload{Namespace: "team-c", Name: "legacy", Account: "default"}},
	}
}

func (c podSet) all() []*workload { return []*workload{c.one, c.two, c.exempt, c.unlabelled} }

// pods returns all of the pods as the scene knows them.
func (c podSet) pods() []*scene.Workload {
	var all []*scene.Workload
	for _, w := range c.all() {
		all = append(all, w.Workload)
	}
	return all
}
