package imds

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sidestep-agent/sidestep/test/standins/accesstoken"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
)

const tokenLifetime = 24 * time.Hour

// issued is the answer of the token endpoint, in its order of fields. Every
// time is seconds in a string.
type issued struct {
	AccessToken  string `json:"access_token"`
	ClientID     string `json:"client_id"`
	ExpiresIn    string `json:"expires_in"`
	ExpiresOn    string `json:"expires_on"`
	ExtExpiresIn string `json:"ext_expires_in"`
	NotBefore    string `json:"not_before"`
	Resource     string `json:"resource"`
	TokenType    string `json:"token_type"`
}

// identity answers what stands below /metadata/identity.
func (s *Server) identity(r *http.Request, below string) reply {
	switch {
	case !hasHeader(r):
		return refused("invalid_request", "Required metadata header not specified")
	case r.Header.Get("X-Forwarded-For") != "":
		return refused("invalid_request", "X-Forwarded-For header is not allowed")
	}
	directory, err := s.o.Federation.Current()
	if err != nil {
		return reply{status: http.StatusInternalServerError, body: map[string]string{"error": "server_error", "error_description": err.Error()}}
	}
	node := directory.NodeIdentity
	switch below {
	case "/oauth2/token":
		return s.token(r, directory)
	case "/info":
		return reply{status: http.StatusOK, body: map[string]string{"tenantId": node.TenantID}}
	case "/getplatformmetadata":
		return reply{status: http.StatusOK, body: map[string]any{
			"clientId": node.ClientID, "tenantId": node.TenantID,
			"cuId": map[string]string{"vmId": s.o.Instance.VMID},
		}}
	}
	return failed(http.StatusNotFound, "Not found")
}

func refused(name, description string) reply {
	return reply{status: http.StatusBadRequest, body: map[string]string{"error": name, "error_description": description}}
}

// token issues a token of the node's identity, which is the only one that the
// VM has.
func (s *Server) token(r *http.Request, directory federation.File) reply {
	if r.Method != http.MethodGet {
		return reply{status: http.StatusMethodNotAllowed, body: map[string]string{
			"error": "method_not_allowed", "error_description": "Only GET requests are supported"}}
	}
	query := r.URL.Query()
	for parameter, values := range query {
		if len(values) > 1 {
			return refused("invalid_request", "Query variable '"+parameter+"' is specified more than once")
		}
	}
	resource := query.Get("resource")
	switch {
	case query.Get("api-version") < "2018-02-01":
		return refused("invalid_request", "Required query variable 'api-version' is missing or not supported")
	case resource == "":
		return refused("invalid_request", "Required query variable 'resource' is missing")
	case !meansNode(query, directory.NodeIdentity):
		return refused("invalid_request", "Identity not found")
	case !directory.HasResource(resource):
		return refused("invalid_resource", "AADSTS500011: The resource principal named "+resource+" was not found in the tenant named "+directory.NodeIdentity.TenantID+".")
	}
	return s.issue(resource, directory.NodeIdentity)
}

// meansNode reports whether every identity parameter of the query, if there
// is any, names the node's identity.
func meansNode(query url.Values, node federation.NodeIdentity) bool {
	for parameter, own := range map[string]string{
		"client_id":    node.ClientID,
		"object_id":    node.PrincipalID,
		"principal_id": node.PrincipalID,
		"mi_res_id":    node.ResourceID,
		"msi_res_id":   node.ResourceID,
		"msi-res-id":   node.ResourceID,
	} {
		if asked := query.Get(parameter); asked != "" && !strings.EqualFold(asked, own) {
			return false
		}
	}
	return true
}

func (s *Server) issue(resource string, node federation.NodeIdentity) reply {
	claims := accesstoken.New(accesstoken.Identity{
		TenantID: node.TenantID, ClientID: node.ClientID, ObjectID: node.PrincipalID, ResourceID: node.ResourceID,
	}, resource, s.o.Clock.Now(), tokenLifetime)
	token, err := s.o.Signer.Sign(claims)
	if err != nil {
		return reply{status: http.StatusInternalServerError, body: map[string]string{"error": "server_error", "error_description": err.Error()}}
	}
	seconds := func(n int64) string { return strconv.FormatInt(n, 10) }
	return reply{status: http.StatusOK, objectID: node.PrincipalID, body: issued{
		AccessToken:  token,
		ClientID:     node.ClientID,
		ExpiresIn:    seconds(int64(tokenLifetime / time.Second)),
		ExpiresOn:    seconds(claims.Expiry),
		ExtExpiresIn: seconds(int64(tokenLifetime / time.Second)),
		NotBefore:    seconds(claims.NotBefore),
		Resource:     resource,
		TokenType:    "Bearer",
	}}
}
