package tokenproxy

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/sidestep-agent/sidestep/test/standins/journal"
	"github.com/sidestep-agent/sidestep/test/standins/jwks"
)

// Audience is that of the assertions that the proxy takes.
const Audience = "api://AKSIdentityBinding"

const maxForm = 64 << 10

// Options set up a Server. All are required but Log.
type Options struct {
	Entra     http.Handler // answers what the proxy lets through
	SNI       string       // the name that clients must ask for in TLS
	Authority string       // the host that clients believe to talk to
	Log       io.Writer    // gets one Entry a line; nil: no log
}

// Entry is one request in the log.
type Entry struct {
	Time      time.Time `json:"time"`
	UserAgent string    `json:"userAgent"`
	Method    string    `json:"method"`
	Path      string    `json:"path"`
	Fields    []string  `json:"fields,omitempty"`  // of the form, sorted
	Subject   string    `json:"subject,omitempty"` // as the assertion says
	Refused   string    `json:"refused,omitempty"` // why; empty: passed on
}

// Server is an http.Handler. It must be served over TLS.
type Server struct {
	o       Options
	journal *journal.Writer
}

// New returns a Server.
func New(o Options) (*Server, error) {
	if o.Entra == nil || o.SNI == "" || o.Authority == "" {
		return nil, errors.New("token proxy stand-in: Entra, server name and authority are needed")
	}
	return &Server{o: o, journal: journal.New(o.Log)}, nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	entry := Entry{Time: time.Now(), UserAgent: r.UserAgent(), Method: r.Method, Path: r.URL.Path}
	if err := s.check(r, &entry); err != nil {
		entry.Refused = err.Error()
		s.journal.Append(entry)
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	s.journal.Append(entry)
	s.o.Entra.ServeHTTP(w, r)
}

const tenantPath = `^/[0-9a-f-]{36}`

var (
	discovery = regexp.MustCompile(tenantPath + `/v2\.0/\.well-known/openid-configuration$|^/common/discovery/instance$`)
	token     = regexp.MustCompile(tenantPath + `/oauth2/v2\.0/token$`)
	// fields are those that azidentity sends.
	fields = []string{"client_assertion", "client_assertion_type", "client_id", "client_info", "grant_type", "scope"}
)

// check returns what is not as azidentity sends it.
func (s *Server) check(r *http.Request, entry *Entry) error {
	switch {
	case r.TLS == nil || r.TLS.ServerName != s.o.SNI:
		return errors.New("the TLS server name is not " + s.o.SNI)
	case r.Host != s.o.Authority:
		return errors.New("the host is not " + s.o.Authority)
	case r.Method == http.MethodGet && discovery.MatchString(r.URL.Path):
		return nil
	case r.Method != http.MethodPost || !token.MatchString(r.URL.Path):
		return errors.New("neither discovery nor a token is asked for")
	}
	if err := r.ParseForm(); err != nil {
		return errors.New("the body is no form")
	}
	entry.Fields = slices.Sorted(maps.Keys(r.PostForm))
	if !slices.Equal(entry.Fields, fields) || r.URL.RawQuery != "" {
		return errors.New("the fields are not those of azidentity")
	}
	return checkAudience(r.PostForm.Get("client_assertion"), entry)
}

func checkAudience(assertion string, entry *Entry) error {
	payload, err := jwks.Payload(assertion)
	if err != nil {
		return errors.New("the assertion is no JWT")
	}
	var claims struct {
		Subject  string   `json:"sub"`
		Audience []string `json:"aud"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return errors.New("the assertion is no service account token")
	}
	entry.Subject = claims.Subject
	if !slices.Equal(claims.Audience, []string{Audience}) {
		return errors.New("the assertion is not for " + Audience + " alone")
	}
	return nil
}
