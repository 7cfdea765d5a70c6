package vault

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/test/standins/accesstoken"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
	"github.com/sidestep-agent/sidestep/test/standins/journal"
	"github.com/sidestep-agent/sidestep/test/standins/jwks"
)

// Resource is the audience of Key Vault's tokens.
const Resource = "https://vault.azure.net"

// Options set up a Server.
type Options struct {
	Name       string // of the vault, as the federation file has it
	Federation *federation.Directory
	Authority  string             // the Entra stand-in's URL, with no slash at its end
	Keys       *http.Client       // fetches the authority's keys; trusts its CA
	Log        io.Writer          // gets one Entry a line; nil: no log
	Clock      clock.PassiveClock // nil: the real one
}

// Entry is one request in the log.
type Entry struct {
	Time      time.Time `json:"time"`
	Operation Operation `json:"operation"`
	Secret    string    `json:"secret,omitempty"`
	ObjectID  string    `json:"objectId,omitempty"` // of a verified token; empty: there was none
	AppID     string    `json:"appId,omitempty"`
	Allowed   bool      `json:"allowed"`
	Status    int       `json:"status"`
	Code      string    `json:"code,omitempty"`  // the innermost of the error
	Cause     string    `json:"cause,omitempty"` // for people, where the code alone does not tell
}

// Operation says what a request would do.
type Operation string

// The operations.
const (
	Get        Operation = "get"
	Set        Operation = "set"
	Delete     Operation = "delete"
	GetDeleted Operation = "get-deleted"
	Unknown    Operation = "unknown"
)

// rights says what each operation needs. An operation without an entry is
// nobody's.
var rights = map[Operation]federation.SecretsAction{
	Get: federation.Get, Set: federation.Set, Delete: federation.Delete, GetDeleted: federation.Get,
}

// Server is an http.Handler that answers as a key vault does.
type Server struct {
	o       Options
	keys    *jwks.Remote
	secrets *secrets
	journal *journal.Writer
}

// New returns a Server with no secrets in it.
func New(o Options) (*Server, error) {
	if o.Name == "" || o.Federation == nil || o.Authority == "" || o.Keys == nil {
		return nil, errors.New("vault stand-in: name, federation, authority and keys' client are needed")
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	return &Server{o: o, keys: jwks.NewRemote(o.Keys), secrets: newSecrets(), journal: journal.New(o.Log)}, nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	op := parse(r)
	entry := Entry{Time: s.o.Clock.Now(), Operation: op.kind, Secret: op.name}
	body, why := s.serve(r, op, &entry)
	entry.Status = http.StatusOK
	if why != nil {
		entry.Status, entry.Code, entry.Cause = why.status, why.innermost(), why.cause
		body = why.body()
	}
	// Logged before it is sent, so that who has the answer finds it in the log.
	s.journal.Append(entry)
	if entry.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", s.challenge())
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(entry.Status)
	// The client may be gone; there is nothing else to inform.
	_ = json.NewEncoder(w).Encode(body)
}

// serve decides on a request and does it: first who asks, then whether he may,
// then whether it can be done.
func (s *Server) serve(r *http.Request, op operation, entry *Entry) (any, *refusal) {
	directory, err := s.o.Federation.Current()
	if err != nil {
		return nil, broken(err)
	}
	own, ok := directory.Vault(s.o.Name)
	if !ok {
		return nil, broken(errors.New("the federation file has no vault " + s.o.Name))
	}
	caller, why := s.authenticate(r, own.TenantID)
	if why != nil {
		return nil, why
	}
	entry.ObjectID, entry.AppID = caller.ObjectID, caller.AppID
	right, known := rights[op.kind]
	if !known {
		return nil, notFound()
	}
	if !own.Allows(caller.ObjectID, right) {
		return nil, accessDenied(caller, right, s.o.Name)
	}
	entry.Allowed = true
	if r.URL.Query().Get("api-version") == "" {
		return nil, badParameter("api-version must be specified")
	}
	return s.do(r, op)
}

// challenge tells a client where to get a token, and for what.
func (s *Server) challenge() string {
	tenant := ""
	if directory, err := s.o.Federation.Current(); err == nil {
		own, _ := directory.Vault(s.o.Name)
		tenant = own.TenantID
	}
	return `Bearer authorization="` + s.o.Authority + "/" + tenant + `", resource="` + Resource + `"`
}

// authenticate returns the claims of the request's token if it is the
// tenant's, for a vault, and valid now.
func (s *Server) authenticate(r *http.Request, tenant string) (accesstoken.Claims, *refusal) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return accesstoken.Claims{}, unauthorized("AKV10000: Request is missing a Bearer or PoP token.")
	}
	payload, err := s.keys.Verify(r.Context(), jwks.ConfigurationOf(s.o.Authority+"/"+tenant+"/v2.0"), token)
	switch {
	case errors.Is(err, jwks.ErrUnreachable):
		return accesstoken.Claims{}, broken(err)
	case err != nil:
		return accesstoken.Claims{}, unauthorized("AKV10046: Unable to resolve the key used for signature validation.")
	}
	var claims accesstoken.Claims
	if err := json.Unmarshal(payload, &claims); err != nil {
		return accesstoken.Claims{}, unauthorized("AKV10001: The token cannot be read.")
	}
	return claims, s.check(claims, tenant)
}

func (s *Server) check(claims accesstoken.Claims, tenant string) *refusal {
	now := s.o.Clock.Now().Unix()
	switch {
	case claims.Audience != Resource:
		return unauthorized("AKV10022: Invalid audience. Expected " + Resource + ", found: " + claims.Audience + ".")
	case claims.Issuer != accesstoken.IssuerOf(tenant) || claims.TenantID != tenant:
		return unauthorized("AKV10032: Invalid issuer. Expected one of " + accesstoken.IssuerOf(tenant) + ", found " + claims.Issuer + ".")
	case now >= claims.Expiry || now < claims.NotBefore:
		return unauthorized("[TokenExpired] Error validating token: 'S2S12086'.")
	case claims.ObjectID == "":
		return unauthorized("AKV10016: The token has no object id.")
	}
	return nil
}
