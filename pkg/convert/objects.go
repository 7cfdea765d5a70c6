package convert

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// group is aad-pod-identity's API group; v1 is its only version.
const group = "aadpodidentity.k8s.io"

// Objects are what Read and ReadIdentities found. The zero value is empty and
// ready for use.
type Objects struct {
	identities map[types.NamespacedName]azureIdentity
	bindings   map[types.NamespacedName]azureIdentityBinding
	exceptions map[types.NamespacedName]azurePodIdentityException
	classes    map[types.NamespacedName]secretProviderClass
	pods       map[types.NamespacedName]corev1.Pod
	podsKnown  bool
	managed    []managedIdentity
	managedSet bool
	ignored    []string // kinds that have no meaning here, once each
}

// azureIdentity has the fields of an AzureIdentity that outlive it. Secrets of
// service principals are left where they are.
type azureIdentity struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Type               int      `json:"type"`
		ResourceID         string   `json:"resourceID"`
		ClientID           string   `json:"clientID"`
		TenantID           string   `json:"tenantID"`
		AuxiliaryTenantIDs []string `json:"auxiliaryTenantIDs"`
	} `json:"spec"`
}

// The types of an AzureIdentity.
const (
	typeManagedIdentity  = 0
	typeServicePrincipal = 1
	typeCertificate      = 2
)

type azureIdentityBinding struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		AzureIdentity string `json:"azureIdentity"`
		Selector      string `json:"selector"`
	} `json:"spec"`
}

type azurePodIdentityException struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		PodLabels map[string]string `json:"podLabels"`
	} `json:"spec"`
}

// managedIdentity is one entry of what `az identity list` prints.
type managedIdentity struct {
	ClientID    string `json:"clientId"`
	ID          string `json:"id"`
	Location    string `json:"location"`
	PrincipalID string `json:"principalId"`
	TenantID    string `json:"tenantId"`
}

// AssumePods says that all pods of the cluster are among the objects read, also
// where there are none.
func (o *Objects) AssumePods() { o.podsKnown = true }
