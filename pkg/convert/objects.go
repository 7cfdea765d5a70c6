package convert

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/yaml"
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

// ErrObject is wrapped by the errors about an object that the API server would
// never have printed, or that was read twice.
var ErrObject = errors.New("not an object of a cluster")

// Read adds the objects of a stream as `kubectl get -o yaml` or `-o json`
// prints it: single objects, lists of them, and any number of documents. Kinds
// that have no meaning here are noted and passed over. Its errors are those of
// the reader, of the parser, and ErrObject.
func (o *Objects) Read(r io.Reader) error {
	decoder := yaml.NewYAMLOrJSONDecoder(r, 4096)
	for n := 1; ; n++ {
		var document json.RawMessage
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = o.add(document, metav1.TypeMeta{})
		}
		if err != nil {
			return fmt.Errorf("document %d: %w", n, err)
		}
	}
}

// add adds one object, or those of a list; of is the kind that a list says its
// items have which do not say it themselves.
func (o *Objects) add(document json.RawMessage, of metav1.TypeMeta) error {
	if len(document) == 0 || string(document) == "null" {
		return nil // nothing between two separators
	}
	var head struct {
		metav1.TypeMeta
		Items []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(document, &head); err != nil {
		return err
	}
	// The kind of the items is "" where they say it themselves.
	if kind, ok := strings.CutSuffix(head.Kind, "List"); ok {
		of = metav1.TypeMeta{APIVersion: head.APIVersion, Kind: kind}
		o.podsKnown = o.podsKnown || kind == "Pod"
		for i, item := range head.Items {
			if err := o.add(item, of); err != nil {
				return fmt.Errorf("item %d: %w", i+1, err)
			}
		}
		return nil
	}
	if head.Kind == "" {
		head.TypeMeta = of
	}
	return o.addObject(document, head.TypeMeta)
}

func (o *Objects) addObject(document json.RawMessage, of metav1.TypeMeta) error {
	switch of.APIVersion + "/" + of.Kind {
	case group + "/v1/AzureIdentity":
		return decodeInto(&o.identities, document, func(i *azureIdentity) *metav1.ObjectMeta { return &i.ObjectMeta })
	case group + "/v1/AzureIdentityBinding":
		return decodeInto(&o.bindings, document, func(b *azureIdentityBinding) *metav1.ObjectMeta { return &b.ObjectMeta })
	case group + "/v1/AzurePodIdentityException":
		return decodeInto(&o.exceptions, document, func(e *azurePodIdentityException) *metav1.ObjectMeta { return &e.ObjectMeta })
	case secretsGroup + "/v1/SecretProviderClass", secretsGroup + "/v1alpha1/SecretProviderClass":
		return decodeInto(&o.classes, document, func(s *secretProviderClass) *metav1.ObjectMeta { return &s.ObjectMeta })
	case "v1/Pod":
		o.podsKnown = true
		return decodeInto(&o.pods, document, func(p *corev1.Pod) *metav1.ObjectMeta { return &p.ObjectMeta })
	}
	if kind := fmt.Sprintf("%s %s", of.APIVersion, of.Kind); !slices.Contains(o.ignored, kind) {
		o.ignored = append(o.ignored, kind)
	}
	return nil
}

// decodeInto adds one object to those of its kind.
func decodeInto[T any](objects *map[types.NamespacedName]T, document json.RawMessage, meta func(*T) *metav1.ObjectMeta) error {
	var object T
	if err := json.Unmarshal(document, &object); err != nil {
		return err
	}
	m := meta(&object)
	if m.Namespace == "" {
		m.Namespace = metav1.NamespaceDefault // where kubectl apply would put it
	}
	if !isObjectName(m.Name) || len(validation.IsDNS1123Label(m.Namespace)) > 0 {
		return fmt.Errorf("%w: %q in namespace %q is no name", ErrObject, m.Name, m.Namespace)
	}
	name := types.NamespacedName{Namespace: m.Namespace, Name: m.Name}
	if _, twice := (*objects)[name]; twice {
		return fmt.Errorf("%w: %s was read twice", ErrObject, name)
	}
	if *objects == nil {
		*objects = map[types.NamespacedName]T{}
	}
	(*objects)[name] = object
	return nil
}

// ReadIdentities adds managed identities as `az identity list --output json`
// prints them, for any number of subscriptions one after the other. Its errors
// are those of the reader and of the JSON parser.
func (o *Objects) ReadIdentities(r io.Reader) error {
	o.managedSet = true
	decoder := json.NewDecoder(r)
	for {
		var list []managedIdentity
		err := decoder.Decode(&list)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		o.managed = append(o.managed, list...)
	}
}

func isObjectName(s string) bool { return len(validation.IsDNS1123Subdomain(s)) == 0 }
