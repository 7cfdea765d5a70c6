package kubeapi

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/test/standins/journal"
	"github.com/sidestep-agent/sidestep/test/standins/jwks"
)

// Options set up a Server.
type Options struct {
	Issuer string             // of service account tokens: the URL at which the Server is reached
	Key    *jwks.Key          // signs service account tokens
	Token  string             // the bearer token that callers must show
	Log    io.Writer          // gets one Entry a line; nil: no log
	Clock  clock.PassiveClock // nil: the real one
}

// Entry is one request in the log. A watch is logged when it begins.
type Entry struct {
	Time   time.Time `json:"time"`
	Method string    `json:"method"`
	URI    string    `json:"uri"`
	Watch  bool      `json:"watch,omitempty"`
	Status int       `json:"status"`
	Event  *Event    `json:"event,omitempty"` // the event that was posted
}

// Event is what a posted event says, in whichever of the two API groups.
type Event struct {
	Namespace string `json:"namespace"`
	Kind      string `json:"kind"` // of the object that it is about
	Name      string `json:"name"`
	UID       string `json:"uid"`
	Type      string `json:"type"`
	Reason    string `json:"reason"`
	Note      string `json:"note"`
}

// Server is an http.Handler that answers as an API server does.
type Server struct {
	o       Options
	store   *store
	journal *journal.Writer
	slow    atomic.Int64 // nanoseconds
}

// Slow has every answer, and every event of a watch, come so much later; 0 ends
// it.
func (s *Server) Slow(by time.Duration) { s.slow.Store(int64(by)) }

// wait waits until what happened at the time may be told. It ends early when
// the request does.
func (s *Server) wait(r *http.Request, happened time.Time) {
	left := time.Duration(s.slow.Load()) - s.o.Clock.Since(happened)
	if left <= 0 {
		return
	}
	select {
	case <-time.After(left):
	case <-r.Context().Done():
	}
}

// New returns a Server with no objects in it.
func New(o Options) (*Server, error) {
	if o.Issuer == "" || o.Key == nil || o.Token == "" {
		return nil, errors.New("API stand-in: issuer, key and token are needed")
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	return &Server{o: o, store: newStore(o.Clock), journal: journal.New(o.Log)}, nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.wait(r, s.o.Clock.Now())
	switch r.URL.Path {
	// Entra reads these two without a token: a cluster's issuer is public.
	case "/.well-known/openid-configuration":
		s.send(w, r, http.StatusOK, s.configuration())
		return
	case "/openid/v1/jwks":
		s.send(w, r, http.StatusOK, s.o.Key.Public())
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+s.o.Token {
		s.fail(w, r, apierrors.NewUnauthorized("Unauthorized"))
		return
	}
	if r.URL.Path == "/version" {
		s.send(w, r, http.StatusOK, version.Info{Major: "1", Minor: "34", GitVersion: "v1.34.0-stand-in"})
		return
	}
	s.resource(w, r)
}

// resource serves what is below /api and /apis.
func (s *Server) resource(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch path := strings.Join(replaceNamespace(parts), "/"); {
	case r.Method == http.MethodGet && path == "api/v1/pods":
		s.collection(w, r, pods, "", "spec.nodeName")
	case r.Method == http.MethodGet && path == "api/v1/namespaces/*/serviceaccounts":
		s.collection(w, r, serviceAccounts, parts[3], "metadata.name")
	case r.Method == http.MethodPost && path == "api/v1/namespaces/*/events":
		s.event(w, r)
	case r.Method == http.MethodPost && path == "apis/events.k8s.io/v1/namespaces/*/events":
		s.event(w, r)
	default:
		s.fail(w, r, &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
			Message: "the server could not find the requested resource",
		}})
	}
}

// replaceNamespace puts * for the namespace's name.
func replaceNamespace(parts []string) []string {
	replaced := append([]string(nil), parts...)
	for i := 1; i < len(replaced); i++ {
		if replaced[i-1] == "namespaces" {
			replaced[i] = "*"
		}
	}
	return replaced
}

func (s *Server) send(w http.ResponseWriter, r *http.Request, status int, body any) {
	s.note(r, Entry{Status: status})
	writeJSON(w, status, body)
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, why *apierrors.StatusError) {
	status := why.Status()
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	s.send(w, r, int(status.Code), status)
}

// forbid refuses a request in the words of RBAC.
func (s *Server) forbid(w http.ResponseWriter, r *http.Request, resource, reason string) {
	s.fail(w, r, apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", errors.New(reason)))
}

// note logs a request; the caller fills in what the request does not say.
func (s *Server) note(r *http.Request, e Entry) {
	e.Time, e.Method, e.URI = s.o.Clock.Now(), r.Method, r.RequestURI
	s.journal.Append(e)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The client may be gone; there is nothing else to inform.
	_ = json.NewEncoder(w).Encode(body)
}
