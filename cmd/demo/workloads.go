package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
)

// What azure-workload-identity's webhook puts into pods.
const (
	tokenVolume = "azure-identity-token"
	tokenFile   = "azure-identity-token"
	tokenTTL    = time.Hour
)

// workload is one pod of the demo.
type workload struct {
	namespace, name string
	account         string // its service account
	labels          map[string]string
	identity        string // the app's identity that its service account names; empty: none

	pod       *lab.Pod
	assertion string // its service account token for Entra; empty: it has none
}

func (w *workload) String() string { return w.namespace + "/" + w.name }

// labelled reports whether the pod bears the label that has it steered.
func (w *workload) labelled() bool { return w.labels[useLabel] == "true" }

// exempt reports whether the configuration's default exception holds for the
// pod.
func (w *workload) exempt() bool { return w.labels[exemptLabel] == "aks" }

const (
	useLabel    = "azure.workload.identity/use"
	exemptLabel = "kubernetes.azure.com/managedby"
)

// cast is all of the demo's pods.
type cast struct {
	one, two, exempt, unlabelled *workload
}

func newCast() cast {
	use := map[string]string{useLabel: "true"}
	return cast{
		one:        &workload{namespace: "team-a", name: "web", account: "web", labels: use, identity: "app-one"},
		two:        &workload{namespace: "team-b", name: "report", account: "report", labels: use, identity: "app-two"},
		exempt:     &workload{namespace: "kube-system", name: "csi", account: "csi", labels: map[string]string{exemptLabel: "aks"}},
		unlabelled: &workload{namespace: "team-c", name: "legacy", account: "default"},
	}
}

func (c cast) all() []*workload { return []*workload{c.one, c.two, c.exempt, c.unlabelled} }

// startPods starts the pods and tells the API stand-in of them.
func startPods(node *lab.Node, c *cloud) (cast, error) {
	pods := newCast()
	for _, w := range pods.all() {
		if err := w.start(node, c); err != nil {
			return cast{}, fmt.Errorf("pod %s: %w", w, err)
		}
	}
	return pods, nil
}

func (w *workload) start(node *lab.Node, c *cloud) (err error) {
	if w.pod, err = node.StartPod(lab.PodOptions{}); err != nil {
		return err
	}
	account := w.accountObject(c.identity)
	c.api.PutServiceAccount(account)
	c.api.PutPod(w.podObject())
	if w.identity == "" {
		return nil
	}
	w.assertion, err = c.api.SignServiceAccountToken(w.namespace, w.account, string(account.UID),
		w.name, w.pod.UID, federation.DefaultAudience, tokenTTL)
	if err != nil {
		return err
	}
	return writeProjected(node.KubeletDir, w.pod.UID, w.assertion)
}

func (w *workload) accountObject(f federation.File) *corev1.ServiceAccount {
	o := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
		Namespace: w.namespace, Name: w.account, UID: types.UID("account-of-" + w.pod.UID),
	}}
	for _, i := range f.Identities {
		if i.Name == w.identity {
			o.Annotations = map[string]string{"azure.workload.identity/client-id": i.ClientID}
		}
	}
	return o
}

func (w *workload) podObject() *corev1.Pod {
	o := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: w.namespace, Name: w.name, UID: types.UID(w.pod.UID), Labels: w.labels,
		},
		Spec: corev1.PodSpec{
			NodeName: nodeName, ServiceAccountName: w.account,
			Containers: []corev1.Container{{Name: "app", Image: "app"}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning,
			ContainerStatuses: []corev1.ContainerStatus{{
				Name: "app", ContainerID: "containerd://" + w.pod.ContainerID,
			}},
		},
	}
	if w.identity != "" {
		o.Spec.Volumes = []corev1.Volume{projectedVolume()}
	}
	return o
}

func projectedVolume() corev1.Volume {
	seconds := int64(tokenTTL / time.Second)
	return corev1.Volume{Name: tokenVolume, VolumeSource: corev1.VolumeSource{
		Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{
			ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
				Audience: federation.DefaultAudience, ExpirationSeconds: &seconds, Path: tokenFile,
			},
		}}},
	}}
}

// writeProjected lays out a projected volume as the kubelet does: the files in
// a directory named for the time, the links ..data and file beside it
// (kubernetes pkg/volume/util/atomic_writer.go).
func writeProjected(kubeletDir, podUID, token string) error {
	volume := filepath.Join(kubeletDir, "pods", podUID, "volumes/kubernetes.io~projected", tokenVolume)
	const dated = "..2026_01_01_00_00_00.000000001"
	if err := os.MkdirAll(filepath.Join(volume, dated), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(volume, dated, tokenFile), []byte(token), 0o600); err != nil {
		return err
	}
	if err := os.Symlink(dated, filepath.Join(volume, "..data")); err != nil {
		return err
	}
	return os.Symlink(filepath.Join("..data", tokenFile), filepath.Join(volume, tokenFile))
}
