package entra

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/test/standins/federation"
	"github.com/sidestep-agent/sidestep/test/standins/journal"
	"github.com/sidestep-agent/sidestep/test/standins/jwks"
)

// DefaultLifetime is how long Entra's tokens for managed identities hold.
const DefaultLifetime = 24 * time.Hour

// Options set up a Server.
type Options struct {
	Federation *federation.Directory
	Key        *jwks.Key    // signs access tokens
	Issuers    *http.Client // fetches the keys of assertions' issuers; trusts their CA
	Log        io.Writer    // gets one Entry a line; nil: no log
	Lifetime   time.Duration
	RefreshIn  time.Duration      // named in answers as refresh_in; 0: not named
	Delay      time.Duration      // before each answer of the token endpoint
	Clock      clock.PassiveClock // nil: the real one
}

// Entry is one request in the log.
type Entry struct {
	Time     time.Time `json:"time"`
	Kind     Kind      `json:"kind"`
	Tenant   string    `json:"tenant,omitempty"`
	ClientID string    `json:"clientId,omitempty"`
	Scope    string    `json:"scope,omitempty"`
	Subject  string    `json:"subject,omitempty"` // as the assertion says, verified or not
	Verified bool      `json:"verified"`          // the assertion passed every check
	Error    string    `json:"error,omitempty"`   // "AADSTS…"
	Cause    string    `json:"cause,omitempty"`   // for people, where the code alone does not tell
	ObjectID string    `json:"objectId,omitempty"`
	// Fault is what was wrong with the Server on purpose; nil: nothing. With
	// no Error it is why there is no answer, or a late one.
	Fault *Fault `json:"fault,omitempty"`
}

// Kind says which of Entra's endpoints was asked.
type Kind string

// The endpoints.
const (
	InstanceDiscovery   Kind = "instance-discovery"
	OpenIDConfiguration Kind = "openid-configuration"
	Keys                Kind = "keys"
	Token               Kind = "token"
	Unknown             Kind = "unknown"
)

// Server is an http.Handler that answers as login.microsoftonline.com does.
// Its documents name the host that they were asked at, since clients refuse
// an authority that speaks of another.
type Server struct {
	o       Options
	keys    *jwks.Remote
	journal *journal.Writer
	faults  *faults
}

// New returns a Server. A Lifetime of 0 is DefaultLifetime.
func New(o Options) (*Server, error) {
	if o.Federation == nil || o.Key == nil || o.Issuers == nil {
		return nil, errors.New("entra stand-in: federation, key and issuers' client are needed")
	}
	if o.Lifetime == 0 {
		o.Lifetime = DefaultLifetime
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	return &Server{o: o, keys: jwks.NewRemote(o.Issuers), journal: journal.New(o.Log), faults: newFaults()}, nil
}

// endpoints are the paths below a tenant's.
var endpoints = map[string]Kind{
	"discovery/instance":                    InstanceDiscovery,
	"v2.0/.well-known/openid-configuration": OpenIDConfiguration,
	"discovery/v2.0/keys":                   Keys,
	"oauth2/v2.0/token":                     Token,
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	tenant, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	entry := Entry{Time: s.o.Clock.Now(), Kind: Unknown, Tenant: tenant}
	if kind, ok := endpoints[path]; ok {
		entry.Kind = kind
	}
	fault, changed := s.faults.current()
	if fault != (Fault{}) {
		entry.Fault = &fault
	}
	if fault.spoils(entry.Kind) {
		if fault.Code != 0 {
			entry.Error = tabled(fault.Code, "").name()
		}
		s.journal.Append(entry)
		s.spoil(w, r, fault, changed)
		return
	}
	wait(r.Context(), seconds(fault.DelaySeconds))
	if fault.ClockSeconds != 0 {
		w.Header().Set("Date", s.now().UTC().Format(http.TimeFormat))
	}
	var body any
	var why *refusal
	switch entry.Kind {
	case InstanceDiscovery:
		body, why = s.instance(r)
	case OpenIDConfiguration:
		body, why = s.configuration(r, entry.Tenant)
	case Keys:
		body = s.o.Key.Public()
	case Token:
		body, why = s.token(w, r, &entry)
	default:
		s.journal.Append(entry)
		http.NotFound(w, r)
		return
	}
	status := http.StatusOK
	if why != nil {
		status, body = why.status, s.bodyOf(why, r)
		entry.Error, entry.Cause = why.name(), why.cause
	}
	// Logged before it is sent, so that who has the answer finds it in the log.
	s.journal.Append(entry)
	answer(w, status, body)
}

// instance tells whether an authority's host is one of Entra's: here the host
// that is asked is the only one.
func (s *Server) instance(r *http.Request) (any, *refusal) {
	asked, err := url.Parse(r.URL.Query().Get("authorization_endpoint"))
	if err != nil || asked.Scheme != "https" || !strings.EqualFold(asked.Host, r.Host) {
		return nil, unknownInstance()
	}
	tenant, _, _ := strings.Cut(strings.TrimPrefix(asked.Path, "/"), "/")
	return map[string]any{
		"tenant_discovery_endpoint": "https://" + r.Host + "/" + tenant + "/v2.0/.well-known/openid-configuration",
		"api-version":               "1.1",
		"metadata": []map[string]any{{
			"preferred_network": r.Host,
			"preferred_cache":   r.Host,
			"aliases":           []string{r.Host},
		}},
	}, nil
}

func (s *Server) configuration(r *http.Request, tenant string) (any, *refusal) {
	directory, err := s.o.Federation.Current()
	if err != nil {
		return nil, unavailable(err)
	}
	if !directory.HasTenant(tenant) {
		return nil, unknownTenant(tenant)
	}
	base := "https://" + r.Host + "/" + tenant
	return map[string]any{
		"token_endpoint":                        base + "/oauth2/v2.0/token",
		"token_endpoint_auth_methods_supported": []string{"private_key_jwt"},
		"jwks_uri":                              base + "/discovery/v2.0/keys",
		"response_modes_supported":              []string{"query", "fragment", "form_post"},
		"subject_types_supported":               []string{"pairwise"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
		"response_types_supported":              []string{"code", "id_token", "code id_token", "id_token token"},
		"scopes_supported":                      []string{"openid", "profile", "email", "offline_access"},
		"issuer":                                base + "/v2.0",
		"authorization_endpoint":                base + "/oauth2/v2.0/authorize",
	}, nil
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store, no-cache")
	w.WriteHeader(status)
	// The client may be gone; there is nothing else to inform.
	_ = json.NewEncoder(w).Encode(body)
}
