package scene

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
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

// Labels and annotations that decide about a workload.
const (
	UseLabel             = "azure.workload.identity/use"
	ClientIDAnnotation   = "azure.workload.identity/client-id"
	IdentitiesAnnotation = "sidestep.dev/identities"
)

// Workload is one pod with a service account.
type Workload struct {
	Namespace, Name string
	Account         string // its service account
	AccountUID      string // other workloads may have the same; empty: none has
	Labels          map[string]string
	Annotations     map[string]string // the service account's
	Federated       bool              // it has the volume with a token for Entra
	// Slot gives the pod an address that pods of the same slot had before it;
	// 0 gives it a new one.
	Slot uint32

	Pod       *lab.Pod
	Assertion string // the token in the volume; empty: it has none

	uid      string // the pod's, once the API stand-in has it
	accounts int    // service accounts that were deleted under the pod
}

// String returns namespace and name.
func (w *Workload) String() string { return w.Namespace + "/" + w.Name }

// Announce tells the API stand-in of the service account, and that the pod is
// bound to the node, where it does not run yet.
func (s *Scene) Announce(w *Workload) {
	w.Pod, w.uid = nil, fmt.Sprintf("00000000-0000-4000-a000-%012x", s.announced.Add(1))
	s.Cloud.API.PutServiceAccount(w.accountObject())
	s.Cloud.API.PutPod(w.podObject())
}

// Start starts the pod and tells the API stand-in that it runs, and of its
// service account if it was not announced. A workload that was started before
// gets another pod.
func (s *Scene) Start(w *Workload) (err error) {
	if w.Pod != nil {
		w.uid = ""
	}
	if w.Pod, err = s.Node.StartPod(lab.PodOptions{UID: w.uid, Slot: w.Slot}); err != nil {
		return err
	}
	return s.Introduce(w)
}

// Introduce tells the API stand-in of a workload whose pod runs.
func (s *Scene) Introduce(w *Workload) (err error) {
	if w.uid != w.Pod.UID { // not announced
		w.uid = w.Pod.UID
		s.Cloud.API.PutServiceAccount(w.accountObject())
	}
	s.Cloud.API.PutPod(w.podObject())
	if !w.Federated {
		return nil
	}
	w.Assertion, err = s.Cloud.API.SignServiceAccountToken(w.Namespace, w.Account, w.accountUID(),
		w.Name, w.uid, federation.DefaultAudience, tokenTTL)
	if err != nil {
		return err
	}
	return writeProjected(s.Node.KubeletDir, w.uid, w.Assertion)
}

// Stop kills the pod and removes it, its link, its volumes and its object, as
// the kubelet and a network plugin do. The service account stays.
func (s *Scene) Stop(w *Workload) error {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: w.Pod.NodeLink.Index}}
	err := errors.Join(netlink.LinkDel(link), w.Pod.Stop())
	s.Cloud.API.DeletePod(w.Namespace, w.Name)
	return errors.Join(err, os.RemoveAll(filepath.Join(s.Node.KubeletDir, "pods", w.Pod.UID)))
}

// DeleteAccount deletes the workload's service account. Annotate makes another
// of the same name.
func (s *Scene) DeleteAccount(w *Workload) {
	s.Cloud.API.DeleteServiceAccount(w.Namespace, w.Account)
	w.AccountUID = ""
	w.accounts++
}

// Annotate replaces the annotations of the workload's service account, as
// `kubectl annotate` would.
func (s *Scene) Annotate(w *Workload, annotations map[string]string) {
	w.Annotations = annotations
	s.Cloud.API.PutServiceAccount(w.accountObject())
}

func (w *Workload) accountUID() string {
	if w.AccountUID != "" {
		return w.AccountUID
	}
	return fmt.Sprintf("account-%d-of-%s", w.accounts, w.uid)
}

func (w *Workload) accountObject() *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
		Namespace: w.Namespace, Name: w.Account, UID: types.UID(w.accountUID()), Annotations: w.Annotations,
	}}
}

func (w *Workload) podObject() *corev1.Pod {
	o := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: w.Namespace, Name: w.Name, UID: types.UID(w.uid), Labels: w.Labels,
		},
		Spec: corev1.PodSpec{
			NodeName: nodeName, ServiceAccountName: w.Account,
			Containers: []corev1.Container{{Name: "app", Image: "app"}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	if w.Pod != nil {
		o.Status = corev1.PodStatus{
			Phase: corev1.PodRunning,
			ContainerStatuses: []corev1.ContainerStatus{{
				Name: "app", ContainerID: "containerd://" + w.Pod.ContainerID,
			}},
		}
	}
	if w.Federated {
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
