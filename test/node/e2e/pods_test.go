package e2e

import (
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

const clientsImage = "sidestep.test/clients:1"

// tokenVolume is a form in which the azure-workload-identity webhook adds the
// token for Entra to a pod. The node has no webhook: the tests write what it
// would.
type tokenVolume struct{ name, mount, file string }

var (
	noVolume  = tokenVolume{}
	oldVolume = tokenVolume{ // up to 1.5.1
		name: "azure-identity-token", mount: "/var/run/secrets/azure/tokens", file: "azure-identity-token",
	}
	newVolume = tokenVolume{ // 1.6.0
		name:  "azure-workload-identity-reserved-5f0c1d7ab3e94b86a2d4c7f1e09b35",
		mount: "/var/run/secrets/azure/wi", file: "token/azure-identity-token",
	}
)

// pod is a pod of the tests: it waits for commands.
type pod struct {
	namespace, name, account string
	labelled                 bool
	labels                   map[string]string
	token                    tokenVolume
	env                      map[string]string
	args                     []string // of probe; none: wait
	hostNetwork              bool
	change                   func(*corev1.Pod) // the last word on its object; may be nil
	container                string            // that asks; empty: app
	process                  string            // of that container, as the node sees it: it is entered from there
}

// in returns the pod with another container asking.
func (p pod) in(container string) pod {
	p.container = container
	return p
}

// direct returns the running pod with its commands run without help: the
// node enters its cgroup and namespaces, as its runtime would.
func (p pod) direct(t *testing.T) pod {
	t.Helper()
	own := p.processes(t, "/probe")
	if len(own) != 1 {
		t.Fatalf("processes of %s: %q", p.name, own)
	}
	p.process = own[0]
	return p
}

func (p pod) object() *corev1.Pod {
	object := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.namespace, Name: p.name, Labels: p.allLabels(),
		},
		Spec: p.spec(),
	}
	if p.change != nil {
		p.change(object)
	}
	return object
}

func (p pod) allLabels() map[string]string {
	labels := map[string]string{"app.kubernetes.io/name": p.name}
	maps.Copy(labels, p.labels)
	if p.labelled {
		labels[labelUse] = "true"
	}
	return labels
}

func (p pod) spec() corev1.PodSpec {
	spec := corev1.PodSpec{
		ServiceAccountName:            p.account,
		HostNetwork:                   p.hostNetwork,
		TerminationGracePeriodSeconds: ptr.To[int64](1),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To[int64](65534),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{p.app()},
	}
	if !p.hostNetwork { // the node's /etc/hosts has it
		spec.HostAliases = []corev1.HostAlias{{IP: "10.224.0.11", Hostnames: []string{vaultHost}}}
	}
	if p.token != noVolume {
		spec.Volumes = []corev1.Volume{{Name: p.token.name, VolumeSource: corev1.VolumeSource{
			Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{
				ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
					Audience: "api://AzureADTokenExchange", ExpirationSeconds: ptr.To[int64](3600), Path: p.token.file,
				},
			}}},
		}}}
	}
	return spec
}

func (p pod) app() corev1.Container {
	c := corev1.Container{
		Name: "app", Image: clientsImage, ImagePullPolicy: corev1.PullNever,
		Args: p.args,
		Env: []corev1.EnvVar{
			// The vault's certificate is of the cluster's authority.
			{Name: "SSL_CERT_FILE", Value: "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"},
		},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: ptr.To(false),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}
	if len(c.Args) == 0 {
		c.Args = []string{"wait"}
	}
	for name, value := range p.env {
		c.Env = append(c.Env, corev1.EnvVar{Name: name, Value: value})
	}
	if p.token != noVolume {
		c.VolumeMounts = []corev1.VolumeMount{{Name: p.token.name, MountPath: p.token.mount, ReadOnly: true}}
	}
	return c
}

// start makes the pods and waits until they are ready. They end with the test.
func start(t *testing.T, pods ...pod) {
	t.Helper()
	var objects []any
	for _, p := range pods {
		objects = append(objects, p.object())
	}
	apply(t, objects...)
	t.Cleanup(func() {
		for _, p := range pods {
			kubectl(t, "-n", p.namespace, "delete", "pod", p.name, "--wait=false", "--ignore-not-found")
		}
	})
	for _, p := range pods {
		kubectl(t, "-n", p.namespace, "wait", "--for=condition=Ready", "pod/"+p.name, "--timeout=60s")
	}
}

// uid returns the pod's UID.
func (p pod) uid(t *testing.T) string {
	t.Helper()
	return kubectl(t, "-n", p.namespace, "get", "pod", p.name, "-o", "jsonpath={.metadata.uid}")
}
