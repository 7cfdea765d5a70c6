package podcache

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// boundSpec is what webhook 1.6.0 makes of a pod with the annotation
// azure.workload.identity/use-identity-binding.
func boundSpec(change func(*corev1.PodSpec)) *corev1.PodSpec {
	const volume = "azure-workload-identity-reserved-0a"
	s := &corev1.PodSpec{
		Volumes: []corev1.Volume{{Name: volume, VolumeSource: corev1.VolumeSource{
			Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: workload.BindingAudience, Path: "token/azure-identity-token"}},
				{ConfigMap: &corev1.ConfigMapProjection{Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca-cert/ca.crt"}}}},
			}},
		}}},
		Containers: []corev1.Container{{Name: "sidecar"}, {
			Name: "app",
			Env: []corev1.EnvVar{
				{Name: "AZURE_KUBERNETES_TOKEN_PROXY", Value: "https://kubernetes.default.svc.cluster.local"},
				{Name: "AZURE_KUBERNETES_SNI_NAME", Value: "a0.ests.aks"},
				{Name: "AZURE_KUBERNETES_CA_FILE", Value: "/var/run/secrets/azure/wi/ca-cert/ca.crt"},
			},
			VolumeMounts: []corev1.VolumeMount{{Name: volume, MountPath: "/var/run/secrets/azure/wi"}},
		}},
	}
	change(s)
	return s
}

func TestIdentityBinding(t *testing.T) {
	const caFile = "/var/run/secrets/azure/wi/ca-cert/ca.crt"
	injected := func(change func(*workload.IdentityBinding)) *workload.IdentityBinding {
		b := &workload.IdentityBinding{
			TokenProxy: "https://kubernetes.default.svc.cluster.local", SNIName: "a0.ests.aks", CAFile: caFile,
			CA: &workload.VolumeFile{Plugin: "kubernetes.io~projected", Volume: "azure-workload-identity-reserved-0a", Path: "ca-cert/ca.crt"},
		}
		change(b)
		return b
	}
	nothing := func(*workload.IdentityBinding) {}
	app := func(change func(*corev1.Container)) func(*corev1.PodSpec) {
		return func(s *corev1.PodSpec) { change(&s.Containers[1]) }
	}
	for name, tc := range map[string]struct {
		change func(*corev1.PodSpec)
		want   *workload.IdentityBinding
	}{
		"as injected": {func(*corev1.PodSpec) {}, injected(nothing)},
		"token for Entra": {func(s *corev1.PodSpec) {
			s.Volumes[0].Projected.Sources[0].ServiceAccountToken.Audience = workload.TokenAudience
		}, nil},
		"no proxy": {app(func(c *corev1.Container) { c.Env[0].Value = "" }), nil},
		"certificate in the environment": {app(func(c *corev1.Container) {
			c.Env[2] = corev1.EnvVar{Name: "AZURE_KUBERNETES_CA_DATA", Value: "pem"}
		}), injected(func(b *workload.IdentityBinding) { b.CAData, b.CAFile, b.CA = "pem", "", nil })},
		"certificate in a ConfigMap mounted deeper": {func(s *corev1.PodSpec) {
			s.Volumes = append(s.Volumes, corev1.Volume{Name: "ca", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}})
			c := &s.Containers[1]
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "ca", MountPath: "/var/run/secrets/azure/wi/ca-cert/"})
		}, injected(func(b *workload.IdentityBinding) {
			b.CA = &workload.VolumeFile{Plugin: "kubernetes.io~configmap", Volume: "ca", Path: "ca.crt"}
		})},
		"certificate in the image": {app(func(c *corev1.Container) { c.VolumeMounts = nil }),
			injected(func(b *workload.IdentityBinding) { b.CA = nil })},
		"path that begins like the mount's": {app(func(c *corev1.Container) { c.VolumeMounts[0].MountPath = "/var/run/secrets/azure/w" }),
			injected(func(b *workload.IdentityBinding) { b.CA = nil })},
		"sub path": {app(func(c *corev1.Container) { c.VolumeMounts[0].SubPath = "x" }),
			injected(func(b *workload.IdentityBinding) { b.CA = nil })},
		"certificate on the node": {func(s *corev1.PodSpec) {
			s.Volumes = append(s.Volumes, corev1.Volume{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}})
			s.Containers[1].VolumeMounts = []corev1.VolumeMount{{Name: "host", MountPath: "/var"}}
		}, injected(func(b *workload.IdentityBinding) { b.CA = nil })},
		"path that climbs out of the mount": {app(func(c *corev1.Container) { c.Env[2].Value = "/var/run/secrets/azure/wi/../ca.crt" }),
			injected(func(b *workload.IdentityBinding) { b.CAFile, b.CA = "/var/run/secrets/azure/wi/../ca.crt", nil })},
	} {
		t.Run(name, func(t *testing.T) {
			got, token := identityBinding(boundSpec(tc.change))
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("identityBinding (-want +got):\n%s", diff)
			}
			if (token != nil) != (tc.want != nil) {
				t.Errorf("token %v", token)
			}
		})
	}
}

func TestTokenExpiration(t *testing.T) {
	for annotation, want := range map[string]time.Duration{
		"": 0, "7200": 2 * time.Hour, "1": time.Second, "-5": 0, "1h": 0, "99999999999999999999": 0,
	} {
		if got := tokenExpiration(annotation); got != want {
			t.Errorf("tokenExpiration(%q) = %v, want %v", annotation, got, want)
		}
	}
}

func TestExpirationOfThePodGoesFirst(t *testing.T) {
	withAccount := &account{object: &serviceAccount{expiration: "7200"}}
	for name, tc := range map[string]struct {
		pod  pod
		want time.Duration
	}{
		"the account's": {pod{}, 2 * time.Hour},
		"the pod's":     {pod{expiration: "4000"}, 4000 * time.Second},
		"a broken one":  {pod{expiration: "soon"}, 0},
	} {
		if got := newWorkload(&record{pod: tc.pod}, withAccount).TokenExpiration; got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
