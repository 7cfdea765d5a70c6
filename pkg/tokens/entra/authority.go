package entra

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Cloud names one of Microsoft's clouds by the name that Azure's own tools
// use.
type Cloud string

// The clouds. The empty Cloud is AzurePublic.
const (
	AzurePublic       Cloud = "AzurePublic"
	AzureUSGovernment Cloud = "AzureUSGovernment"
	AzureChina        Cloud = "AzureChina"
)

// Authority returns the authority of the cloud's Entra, "https://host", or an
// error that names the clouds.
func (c Cloud) Authority() (string, error) {
	switch c {
	case AzurePublic, "":
		return "https://login.microsoftonline.com", nil
	case AzureUSGovernment:
		return "https://login.microsoftonline.us", nil
	case AzureChina:
		return "https://login.chinacloudapi.cn", nil
	}
	return "", fmt.Errorf("unknown cloud %q: use %s, %s or %s", string(c), AzurePublic, AzureUSGovernment, AzureChina)
}

// entraHosts are the hosts that Microsoft runs Entra on. One of them may name
// another as its token endpoint, as login.chinacloudapi.cn does.
var entraHosts = map[string]bool{
	"login.microsoftonline.com":        true,
	"login.microsoft.com":              true,
	"login.windows.net":                true,
	"sts.windows.net":                  true,
	"login.microsoftonline.us":         true,
	"login.usgovcloudapi.net":          true,
	"login.chinacloudapi.cn":           true,
	"login.partner.microsoftonline.cn": true,
}

// ParseAuthority returns raw as "https://host" without a slash at its end. It
// wants TLS, since an assertion goes there, and nothing besides the host,
// since the tenant is appended.
func ParseAuthority(raw string) (string, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return "", errors.New("not a URL")
	case u.Scheme != "https":
		return "", errors.New("not an https URL")
	case u.Hostname() == "" || u.User != nil:
		return "", errors.New("not a URL of a host alone")
	case u.Path != "" && u.Path != "/", u.RawQuery != "", u.Fragment != "":
		return "", errors.New("a URL with more in it than a host")
	}
	return "https://" + strings.ToLower(u.Host), nil
}

// IsEntra reports whether the authority is one of the hosts that Microsoft runs
// Entra on.
func IsEntra(authority string) bool { return entraHosts[strings.TrimPrefix(authority, "https://")] }

// ValidTenant reports whether the tenant is a GUID or a domain name. The tenant
// becomes a part of a URL's path; of the names without a dot or a dash, all
// have a meaning of their own to Entra or MSAL (common, organizations, adfs,
// …), and none is one tenant.
func ValidTenant(tenant string) bool {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-."
	return len(tenant) <= 253 && strings.Trim(tenant, plain) == "" &&
		strings.ContainsAny(tenant, "-.") && strings.Trim(tenant, "-.") == tenant
}

// mayReceive reports whether an assertion meant for the authority may go to
// the token endpoint that the authority's discovery document names. A pod's
// author can choose the authority: without this test its document could make
// the agent post to any address that the node reaches.
func mayReceive(authority, endpoint string) bool {
	a, err := url.Parse(authority)
	if err != nil {
		return false
	}
	e, err := url.Parse(endpoint)
	if err != nil || e.Scheme != "https" || e.User != nil {
		return false
	}
	if strings.EqualFold(a.Host, e.Host) {
		return true
	}
	return entraHosts[strings.ToLower(a.Host)] && entraHosts[strings.ToLower(e.Host)]
}
