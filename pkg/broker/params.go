package broker

import (
	"fmt"
	"mime"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// parameter is one of the token path's parameters, however it is spelt.
type parameter int

const (
	apiVersion parameter = iota
	bypassCache
	clientID
	objectID
	resourceID
	resource
	parameterCount
)

// parameters are the spellings of the token path's parameters, in lower case.
var parameters = map[string]parameter{
	"api-version":  apiVersion,
	"bypass_cache": bypassCache,
	"client_id":    clientID,
	"mi_res_id":    resourceID,
	"msi-res-id":   resourceID,
	"msi_res_id":   resourceID,
	"object_id":    objectID,
	"principal_id": objectID,
	"resource":     resource,
}

// identityParameters select an identity; a request has one of them at most.
var identityParameters = []struct {
	parameter
	name string
}{{clientID, "'client_id'"}, {objectID, "'object_id'"}, {resourceID, "'mi_res_id'"}}

// badParamsError is an error that is sent to the caller.
type badParamsError struct{ description string }

func (e *badParamsError) Error() string { return e.description }

func badf(format string, args ...any) error {
	return &badParamsError{fmt.Sprintf(format, args...)}
}

// params holds the values of parameters.
type params struct {
	values [parameterCount]string
	given  [parameterCount]bool
}

// tokenParams reads the parameters of a token request from its query and, in
// a POST, from its form. Errors are *badParamsError.
func tokenParams(query, form string) (workload.TokenRequest, error) {
	var p params
	if err := p.add(query); err != nil {
		return workload.TokenRequest{}, err
	}
	if form != "" {
		if err := p.add(form); err != nil {
			return workload.TokenRequest{}, err
		}
	}
	return p.request()
}

// isForm reports whether a body of that type may be a form. A missing type
// counts as one.
func isForm(contentType string) bool {
	media, _, _ := mime.ParseMediaType(contentType)
	return contentType == "" || media == "application/x-www-form-urlencoded"
}

// add takes in the known ones of a list of parameters. Names are compared
// without case, so that none that selects an identity is ever overlooked.
func (p *params) add(raw string) error {
	for pair := range strings.SplitSeq(raw, "&") {
		rawName, rawValue, _ := strings.Cut(pair, "=")
		spelt, err := url.QueryUnescape(rawName)
		if err != nil {
			continue // no name of ours
		}
		which, known := parameters[strings.ToLower(spelt)]
		if !known {
			continue
		}
		value, err := url.QueryUnescape(rawValue)
		if err != nil || !utf8.ValidString(value) {
			return badf("The value of '%s' is malformed", spelt)
		}
		if p.given[which] {
			return badf("Parameter '%s' is given more than once", spelt)
		}
		p.values[which], p.given[which] = value, true
	}
	return nil
}

// request returns what the parameters ask for. An empty one counts as absent.
func (p *params) request() (workload.TokenRequest, error) {
	var chosen []string
	for _, i := range identityParameters {
		if p.values[i.parameter] != "" {
			chosen = append(chosen, i.name)
		}
	}
	if len(chosen) > 1 {
		return workload.TokenRequest{}, badf("Only one identity may be asked for, not %s", strings.Join(chosen, " and "))
	}
	if p.values[resource] == "" {
		return workload.TokenRequest{}, badf("Required query variable 'resource' is missing")
	}
	return workload.TokenRequest{
		Resource:    p.values[resource],
		ClientID:    p.values[clientID],
		ObjectID:    p.values[objectID],
		ResourceID:  p.values[resourceID],
		BypassCache: strings.EqualFold(p.values[bypassCache], "true"),
	}, nil
}
