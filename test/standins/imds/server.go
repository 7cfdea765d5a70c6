package imds

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/test/standins/federation"
	"github.com/sidestep-agent/sidestep/test/standins/journal"
)

// Signer signs access tokens with a key that the Entra stand-in publishes.
type Signer interface {
	// Sign returns claims as a compact JWT.
	Sign(claims any) (string, error)
}

// Options set up a Server.
type Options struct {
	Federation *federation.Directory
	Signer     Signer
	Instance   Instance           // the zero value: DefaultInstance
	Log        io.Writer          // gets one Entry a line; nil: no log
	Clock      clock.PassiveClock // nil: the real one
}

// Entry is one request in the log.
type Entry struct {
	Time     time.Time `json:"time"`
	Remote   string    `json:"remote"` // the client's address and port
	Method   string    `json:"method"`
	URI      string    `json:"uri"`      // as it was sent
	Path     string    `json:"path"`     // as it was understood
	Identity bool      `json:"identity"` // the path is one of the identity endpoint's
	Metadata bool      `json:"metadata"` // the header was sent
	Status   int       `json:"status"`
	ObjectID string    `json:"objectId,omitempty"` // of the token that was issued: the node's
}

// Server is an http.Handler that answers as a VM's IMDS does.
type Server struct {
	o        Options
	document map[string]any
	journal  *journal.Writer
}

// New returns a Server.
func New(o Options) (*Server, error) {
	if o.Federation == nil || o.Signer == nil {
		return nil, errors.New("IMDS stand-in: federation and signer are needed")
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Instance == (Instance{}) {
		o.Instance = DefaultInstance
	}
	return &Server{o: o, document: o.Instance.document(), journal: journal.New(o.Log)}, nil
}

// reply is an answer before it is sent.
type reply struct {
	status   int
	body     any // a string is sent as text, a page as HTML, anything else as JSON
	objectID string
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	understood := understand(r.URL.EscapedPath())
	answer := s.answer(r, understood)
	// Logged before it is sent, so that who has the answer finds it in the log.
	s.journal.Append(Entry{
		Time: s.o.Clock.Now(), Remote: r.RemoteAddr, Method: r.Method, URI: r.RequestURI,
		Path: understood, Identity: isIdentity(understood), Metadata: hasHeader(r),
		Status: answer.status, ObjectID: answer.objectID,
	})
	w.Header().Set("Server", "IMDS/stand-in")
	switch body := answer.body.(type) {
	case string:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(answer.status)
		_, _ = io.WriteString(w, body)
	case page:
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(answer.status)
		_, _ = io.WriteString(w, string(body))
	default:
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(answer.status)
		_ = json.NewEncoder(w).Encode(body)
	}
}

func (s *Server) answer(r *http.Request, understood string) reply {
	if isIdentity(understood) {
		return s.identity(r, strings.TrimPrefix(understood, identityRoot))
	}
	switch {
	case understood != root && !strings.HasPrefix(understood, root+"/"):
		return reply{status: http.StatusNotFound, body: notFoundPage}
	case !hasHeader(r):
		return failed(http.StatusBadRequest, "Bad request. Required metadata header not specified")
	case r.Header.Get("X-Forwarded-For") != "":
		return failed(http.StatusBadRequest, "Bad request. X-Forwarded-For header is not allowed")
	}
	return s.metadata(r, understood)
}

// failed returns an error in the form of every endpoint but identity's.
func failed(status int, text string) reply {
	return reply{status: status, body: map[string]string{"error": text}}
}

// hasHeader applies IMDS's rule against forwarded requests.
func hasHeader(r *http.Request) bool { return strings.EqualFold(r.Header.Get("Metadata"), "true") }

const (
	root         = "/metadata"
	identityRoot = root + "/identity"
)

// page is a body in HTML: outside /metadata the service answers as the web
// server that it runs in.
type page string

const notFoundPage page = `<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-strict.dtd">
<html xmlns="http://www.w3.org/1999/xhtml"><head><title>404 - File or directory not found.</title></head>
<body><div id="header"><h1>Server Error</h1></div><h2>404 - File or directory not found.</h2></body></html>
`

func isIdentity(understood string) bool {
	return understood == identityRoot || strings.HasPrefix(understood, identityRoot+"/")
}

// understand returns the path that the real service takes a request path for:
// case, doubled and backward slashes, dots, escapes (twice over, too) and
// parameters of a segment do not matter to it (CVE-2022-23551).
func understand(escaped string) string {
	for range 2 {
		plain, err := url.PathUnescape(escaped)
		if err != nil {
			break
		}
		escaped = plain
	}
	segments := strings.Split(strings.ReplaceAll(strings.ToLower(escaped), `\`, "/"), "/")
	for i, segment := range segments {
		segments[i], _, _ = strings.Cut(segment, ";")
	}
	return path.Clean("/" + strings.Join(segments, "/"))
}
