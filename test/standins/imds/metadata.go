package imds

import (
	"encoding/base64"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// apiVersions are those that the real service was seen to list.
var apiVersions = []string{
	"2017-03-01", "2017-04-02", "2017-08-01", "2017-10-01", "2017-12-01",
	"2018-02-01", "2018-04-02", "2018-10-01",
	"2019-02-01", "2019-03-11", "2019-04-30", "2019-06-01", "2019-06-04", "2019-08-01", "2019-08-15", "2019-11-01",
	"2020-06-01", "2020-07-15", "2020-09-01", "2020-10-01", "2020-12-01",
	"2021-01-01", "2021-02-01", "2021-03-01", "2021-05-01", "2021-10-01", "2021-11-01", "2021-11-15", "2021-12-13",
	"2023-07-01", "2023-11-15", "2024-03-15", "2024-07-17", "2025-04-07",
}

// eventsVersions are those that scheduled events have besides.
var eventsVersions = []string{"2017-11-01", "2019-01-01", "2019-04-01", "2020-07-01"}

// Instance is what the VM says of itself.
type Instance struct {
	Name           string
	VMID           string
	Location       string
	SubscriptionID string
	ResourceGroup  string
	UserData       string // as text; the documents have it in base64
}

// DefaultInstance is a node of no cluster that exists. Its user data looks
// like the secret that it is in real clusters, so that a leak is found.
var DefaultInstance = Instance{
	Name:           "aks-pool-00000000-vmss000000",
	VMID:           "7f3b9d24-5c81-4e06-b3a7-9d1e6f8c2a0b",
	Location:       "westeurope",
	SubscriptionID: "58a1e4c9-0d7b-4e36-a2f8-b9c6d3715e06",
	ResourceGroup:  "MC_nodes",
	UserData:       "bootstrap-secret-of-the-node",
}

// document returns the tree below /metadata/instance.
func (i Instance) document() map[string]any {
	return map[string]any{
		"compute": map[string]any{
			"azEnvironment":              "AzurePublicCloud",
			"customData":                 "",
			"evictionPolicy":             "",
			"extendedLocation":           map[string]any{"name": "", "type": ""},
			"host":                       map[string]any{"id": ""},
			"hostGroup":                  map[string]any{"id": ""},
			"isHostCompatibilityLayerVm": "false",
			"licenseType":                "",
			"location":                   i.Location,
			"name":                       i.Name,
			"offer":                      "0001-com-ubuntu-server-jammy",
			"osProfile": map[string]any{
				"adminUsername": "azureuser", "computerName": i.Name, "disablePasswordAuthentication": "true",
			},
			"osType":               "Linux",
			"placementGroupId":     "",
			"plan":                 map[string]any{"name": "", "product": "", "publisher": ""},
			"platformFaultDomain":  "0",
			"platformUpdateDomain": "0",
			"priority":             "",
			"provider":             "Microsoft.Compute",
			"publicKeys":           []any{},
			"publisher":            "Canonical",
			"resourceGroupName":    i.ResourceGroup,
			"resourceId":           "/subscriptions/" + i.SubscriptionID + "/resourceGroups/" + i.ResourceGroup + "/providers/Microsoft.Compute/virtualMachines/" + i.Name,
			"sku":                  "gen2",
			"securityProfile":      map[string]any{"secureBootEnabled": "true", "virtualTpmEnabled": "true"},
			"storageProfile": map[string]any{
				"dataDisks":      []any{},
				"imageReference": map[string]any{"id": "", "offer": "0001-com-ubuntu-server-jammy", "publisher": "Canonical", "sku": "gen2", "version": "latest"},
				"osDisk":         map[string]any{"caching": "ReadOnly", "createOption": "FromImage", "diskSizeGB": "128", "name": i.Name + "_OsDisk", "osType": "Linux"},
				"resourceDisk":   map[string]any{"size": "34816"},
			},
			"subscriptionId":         i.SubscriptionID,
			"tags":                   "pool:test",
			"tagsList":               []any{map[string]any{"name": "pool", "value": "test"}},
			"userData":               base64.StdEncoding.EncodeToString([]byte(i.UserData)),
			"version":                "latest",
			"virtualMachineScaleSet": map[string]any{"id": ""},
			"vmId":                   i.VMID,
			"vmScaleSetName":         "aks-pool-00000000-vmss",
			"vmSize":                 "Standard_D2s_v5",
			"zone":                   "1",
		},
		"network": map[string]any{
			"interface": []any{map[string]any{
				"ipv4": map[string]any{
					"ipAddress": []any{map[string]any{"privateIpAddress": "10.224.0.4", "publicIpAddress": ""}},
					"subnet":    []any{map[string]any{"address": "10.224.0.0", "prefix": "16"}},
				},
				"ipv6":       map[string]any{"ipAddress": []any{}},
				"macAddress": "000D3A000001",
			}},
		},
	}
}

// metadata answers every path outside identity.
func (s *Server) metadata(r *http.Request, understood string) reply {
	events := understood == "/metadata/scheduledevents"
	if r.Method != http.MethodGet && (!events || r.Method != http.MethodPost) {
		return failed(http.StatusMethodNotAllowed, "Method not allowed. Only GET requests are supported")
	}
	if understood == "/metadata/versions" {
		return reply{status: http.StatusOK, body: map[string][]string{"apiVersions": apiVersions}}
	}
	version := r.URL.Query().Get("api-version")
	if !slices.Contains(apiVersions, version) && (!events || !slices.Contains(eventsVersions, version)) {
		return reply{status: http.StatusBadRequest, body: map[string]any{
			"error":           "Bad request. api-version is invalid or was not specified. For more information refer to aka.ms/azureimds",
			"newest-versions": apiVersions[len(apiVersions)-3:],
		}}
	}
	switch {
	case events && r.Method == http.MethodPost:
		return reply{status: http.StatusOK, body: struct{}{}}
	case events:
		return reply{status: http.StatusOK, body: map[string]any{"DocumentIncarnation": 1, "Events": []any{}}}
	case understood == "/metadata/attested/document":
		signature := base64.StdEncoding.EncodeToString([]byte("signed by the stand-in: " + s.o.Instance.VMID))
		return reply{status: http.StatusOK, body: map[string]string{"encoding": "pkcs7", "signature": signature}}
	case understood == "/metadata/loadbalancer":
		return reply{status: http.StatusOK, body: map[string]any{"loadbalancer": map[string]any{
			"publicIpAddresses": []any{}, "inboundRules": []any{}, "outboundRules": []any{}}}}
	case understood == "/metadata/instance" || strings.HasPrefix(understood, "/metadata/instance/"):
		return s.instance(strings.TrimPrefix(understood, "/metadata/instance"), r.URL.Query().Get("format"))
	}
	return failed(http.StatusNotFound, "Not found")
}

// instance answers one node of the instance document, as JSON or as text: a
// leaf has only text, and of a branch the text is the list of its children.
func (s *Server) instance(below, format string) reply {
	node, found := descend(s.document, strings.FieldsFunc(below, func(r rune) bool { return r == '/' }))
	if !found {
		return failed(http.StatusNotFound, "Not found")
	}
	text := strings.EqualFold(format, "text")
	leaf, isLeaf := node.(string)
	switch {
	case isLeaf && text:
		return reply{status: http.StatusOK, body: leaf}
	case isLeaf:
		return failed(http.StatusBadRequest, "Bad request. Leaf elements need format=text")
	case text:
		return reply{status: http.StatusOK, body: strings.Join(children(node), "\n")}
	}
	return reply{status: http.StatusOK, body: node}
}

// descend follows names, which are in lower case, and indices.
func descend(node any, names []string) (any, bool) {
	for _, name := range names {
		next, found := child(node, name)
		if !found {
			return nil, false
		}
		node = next
	}
	return node, true
}

func child(node any, name string) (any, bool) {
	switch n := node.(type) {
	case map[string]any:
		for own, value := range n {
			if strings.EqualFold(own, name) {
				return value, true
			}
		}
	case []any:
		if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(n) {
			return n[i], true
		}
	}
	return nil, false
}

// children returns a branch's names, those of branches with a slash behind.
func children(node any) []string {
	var names []string
	add := func(name string, value any) {
		if _, isLeaf := value.(string); !isLeaf {
			name += "/"
		}
		names = append(names, name)
	}
	switch n := node.(type) {
	case map[string]any:
		for name, value := range n {
			add(name, value)
		}
	case []any:
		for i, value := range n {
			add(strconv.Itoa(i), value)
		}
	}
	sort.Strings(names)
	return names
}
