package podcache

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func TestTCPPorts(t *testing.T) {
	spec := &corev1.PodSpec{
		Containers: []corev1.Container{
			{Ports: []corev1.ContainerPort{
				{ContainerPort: 8080, HostPort: 80, Protocol: corev1.ProtocolTCP},
				{ContainerPort: 53, Protocol: corev1.ProtocolUDP},
			}},
			{Ports: []corev1.ContainerPort{{ContainerPort: 8080}}},
		},
		InitContainers: []corev1.Container{{Ports: []corev1.ContainerPort{{ContainerPort: 28000}}}},
	}
	if diff := cmp.Diff([]uint16{80, 8080, 28000}, tcpPorts(spec)); diff != "" {
		t.Errorf("tcpPorts (-want +got):\n%s", diff)
	}
}

func TestProjectedTokenIsFoundByAudience(t *testing.T) {
	token := func(audience, path string) corev1.VolumeProjection {
		return corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: audience, Path: path}}
	}
	volume := func(name string, sources ...corev1.VolumeProjection) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: sources}}}
	}
	for name, tc := range map[string]struct {
		volumes []corev1.Volume
		want    *workload.ProjectedToken
	}{
		"webhook 1.5": {
			[]corev1.Volume{volume("kube-api-access", token("", "token")), volume("azure-identity-token", token(workload.TokenAudience, "azure-identity-token"))},
			&workload.ProjectedToken{Volume: "azure-identity-token", Path: "azure-identity-token"},
		},
		"webhook 1.6": {
			[]corev1.Volume{volume("azure-workload-identity-reserved-0a", token("x", "x"), token(workload.TokenAudience, "token/azure-identity-token"))},
			&workload.ProjectedToken{Volume: "azure-workload-identity-reserved-0a", Path: "token/azure-identity-token"},
		},
		"webhook's name, other audience": {
			[]corev1.Volume{volume("azure-identity-token", token("api://AKSIdentityBinding", "azure-identity-token"))}, nil,
		},
		"no projected volume": {[]corev1.Volume{{Name: "data"}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, projectedToken(&corev1.PodSpec{Volumes: tc.volumes}, workload.TokenAudience)); diff != "" {
				t.Errorf("projectedToken (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEnvironmentTakesLiteralsOfAnyContainer(t *testing.T) {
	spec := &corev1.PodSpec{
		Containers: []corev1.Container{
			{Env: []corev1.EnvVar{{Name: "AZURE_CLIENT_ID", ValueFrom: &corev1.EnvVarSource{}}}},
			{Env: []corev1.EnvVar{{Name: "AZURE_CLIENT_ID", Value: "c"}}},
		},
		InitContainers: []corev1.Container{{Env: []corev1.EnvVar{{Name: "AZURE_TENANT_ID", Value: "t"}}}},
	}
	for name, want := range map[string]string{"AZURE_CLIENT_ID": "c", "AZURE_TENANT_ID": "t", "AZURE_AUTHORITY_HOST": ""} {
		if got := environment(spec, name); got != want {
			t.Errorf("environment(%s) = %q, want %q", name, got, want)
		}
	}
}

func TestParseIdentities(t *testing.T) {
	one := []workload.MappedIdentity{{ClientID: "c", ResourceID: "/subscriptions/s", PrincipalID: "p"}}
	for name, tc := range map[string]struct {
		annotation string
		want       []workload.MappedIdentity
		bad        bool
	}{
		"none":             {"", nil, false},
		"as az prints it":  {`[{"clientId":"c","id":"/subscriptions/s","principalId":"p","tenantId":"t","location":"x"}]`, one, false},
		"not JSON":         {`clientId: c`, nil, true},
		"not a list":       {`{"clientId":"c"}`, nil, true},
		"no client id":     {`[{"clientId":"c"},{"id":"/subscriptions/s"}]`, nil, true},
		"wrongly typed id": {`[{"clientId":7}]`, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseIdentities(tc.annotation)
			if (err != nil) != tc.bad {
				t.Errorf("error = %v", err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("parseIdentities (-want +got):\n%s", diff)
			}
		})
	}
}
