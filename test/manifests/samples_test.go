package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// nodeListener is --listen's default, which cmd/agent's tests hold the program
// to.
var nodeListener = netip.MustParseAddrPort("169.254.169.252:2579")

var steeredPods = map[string]string{"azure.workload.identity/use": "true"}

// The sample opens the way to the node listener, for pods that are steered,
// and no other.
func TestNetworkPolicyAllowsTheNodeListener(t *testing.T) {
	got := one[*networkingv1.NetworkPolicy](t, parse(t, "sample", readSample(t, "networkpolicy.yaml")))
	tcp, port := corev1.ProtocolTCP, intstr.FromInt32(int32(nodeListener.Port()))
	want := networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: steeredPods},
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
		Egress: []networkingv1.NetworkPolicyEgressRule{{
			To:    []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: listenerCIDR()}}},
			Ports: []networkingv1.NetworkPolicyPort{{Protocol: &tcp, Port: &port}},
		}},
	}
	if diff := cmp.Diff(want, got.Spec); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// ciliumPolicy is what the sample uses of cilium.io/v2's CiliumNetworkPolicy:
// Cilium's own types would bring all of Cilium along.
type ciliumPolicy struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		EndpointSelector metav1.LabelSelector `json:"endpointSelector"`
		Egress           []ciliumEgress       `json:"egress"`
	} `json:"spec"`
}

type ciliumEgress struct {
	ToEntities []string      `json:"toEntities,omitempty"`
	ToCIDR     []string      `json:"toCIDR,omitempty"`
	ToPorts    []ciliumPorts `json:"toPorts"`
}

type ciliumPorts struct {
	Ports []ciliumPort `json:"ports"`
}

type ciliumPort struct {
	Port     string `json:"port"`
	Protocol string `json:"protocol"`
}

func TestCiliumNetworkPolicyAllowsTheNodeListener(t *testing.T) {
	var got ciliumPolicy
	if err := yaml.UnmarshalStrict(readSample(t, "ciliumnetworkpolicy.yaml"), &got); err != nil {
		t.Fatal(err)
	}
	if got.APIVersion != "cilium.io/v2" || got.Kind != "CiliumNetworkPolicy" || got.Metadata.Name == "" {
		t.Errorf("%s %s %q", got.APIVersion, got.Kind, got.Metadata.Name)
	}
	if diff := cmp.Diff(steeredPods, got.Spec.EndpointSelector.MatchLabels); diff != "" {
		t.Errorf("pods (-want +got):\n%s", diff)
	}
	ports := []ciliumPorts{{Ports: []ciliumPort{{Port: "2579", Protocol: "TCP"}}}}
	want := []ciliumEgress{
		{ToEntities: []string{"host"}, ToPorts: ports},
		{ToCIDR: []string{listenerCIDR()}, ToPorts: ports},
	}
	if diff := cmp.Diff(want, got.Spec.Egress); diff != "" {
		t.Errorf("egress (-want +got):\n%s", diff)
	}
}

func listenerCIDR() string {
	return netip.PrefixFrom(nodeListener.Addr(), nodeListener.Addr().BitLen()).String()
}

func readSample(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(manifests, "samples", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}
