package broker

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/broker/imdspath"
)

// No spelling of an identity path reaches the node's IMDS, by any method,
// with or without the header, whatever the configuration allows.
func TestIdentityPathsAreNeverRelayed(t *testing.T) {
	r := newRig(t)
	settings := testSettings
	settings.Relay.Allow = []string{"/metadata", "/metadata/identity", "/"}
	r.server.SetSettings(settings)
	want := reply{404, errorBody("not_found", "Not found")}
	for _, path := range identitySpellings {
		for _, request := range []string{
			get(path + "?api-version=2018-02-01&resource=x"), request("GET", path),
			post(path, "resource=x"), get("http://169.254.169.254" + path),
		} {
			if got, _ := r.dial().send(request); got != want {
				t.Errorf("%.80q: %+v", request, got)
			}
		}
	}
	if seen := r.imds.requests(); seen != nil {
		t.Errorf("the node's IMDS was asked: %q", seen)
	}
	if asked := r.tokens.requests(); asked != nil {
		t.Errorf("asked of Tokens: %+v", asked)
	}
}

func TestRelay(t *testing.T) {
	allowing := testSettings
	allowing.Relay.Allow = []string{"/metadata/attested", "/metadata/scheduledevents"}
	without := testSettings
	without.Relay.Instance = false
	served := reply{200, `{"node":true}`}
	forbiddenPath := reply{403, errorBody("access_denied", "This path is not served to pods")}
	missing := reply{404, errorBody("not_found", "Not found")}
	for name, test := range map[string]struct {
		settings Settings
		request  string
		want     reply
		seen     []string
	}{
		"instance":             {testSettings, get("/metadata/instance?api-version=2021-02-01"), served, []string{"GET /metadata/instance?api-version=2021-02-01 true"}},
		"spelt otherwise":      {testSettings, request("GET", "/Metadata/instance/compute/?format=%74ext&api-version=a%2f&b=c", "metadata: True"), served, []string{"GET /metadata/instance/compute?format=text true"}},
		"versions":             {testSettings, get("/metadata/versions"), served, []string{"GET /metadata/versions true"}},
		"loadbalancer":         {testSettings, get("/metadata/loadbalancer"), served, []string{"GET /metadata/loadbalancer true"}},
		"events":               {testSettings, get("/metadata/scheduledevents"), served, []string{"GET /metadata/scheduledevents true"}},
		"without the header":   {testSettings, request("GET", "/metadata/instance"), noMetadata, nil},
		"body of a GET":        {testSettings, get("/metadata/instance", "Content-Length: 3") + "abc", served, []string{"GET /metadata/instance true"}},
		"forwarded":            {testSettings, get("/metadata/instance", "X-Forwarded-For: 1.2.3.4"), reply{400, errorBody("invalid_request", "Header 'X-Forwarded-For' is not allowed")}, nil},
		"instance blocked":     {without, get("/metadata/instance/compute/location"), missing, nil},
		"user data":            {testSettings, get("/metadata/instance/compute/userData?format=text"), missing, nil},
		"attested":             {testSettings, get("/metadata/attested/document"), forbiddenPath, nil},
		"attested, allowed":    {allowing, get("/metadata/attested/document"), served, []string{"GET /metadata/attested/document true"}},
		"something else":       {testSettings, get("/"), page, nil},
		"odd spelling":         {testSettings, get("/metadata/./instance"), missing, nil},
		"POST instance":        {testSettings, post("/metadata/instance", ""), reply{405, errorBody("method_not_allowed", "Method not allowed")}, nil},
		"POST events":          {testSettings, post("/metadata/scheduledevents", "{}"), reply{403, errorBody("access_denied", "Pods may not start scheduled events")}, nil},
		"POST events, allowed": {allowing, post("/metadata/scheduledevents", "{}"), served, []string{"POST /metadata/scheduledevents true"}},
		"DELETE":               {allowing, request("DELETE", "/metadata/attested/x", "Metadata: true"), reply{405, errorBody("method_not_allowed", "Method not allowed")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.server.SetSettings(test.settings)
			got, _ := r.dial().send(test.request)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.seen, r.imds.requests()); diff != "" {
				t.Errorf("seen by IMDS (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRelayPassesAnswerOn(t *testing.T) {
	r := newRig(t)
	r.imds.answerWith(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Retry-After", "7")
		w.Header().Set("Set-Cookie", "a=b")
		w.WriteHeader(http.StatusGone)
		_, _ = io.WriteString(w, "westeurope")
	})
	got, header := r.dial().send(get("/metadata/instance/compute/location?format=text"))
	if want := (reply{410, "westeurope"}); got != want {
		t.Errorf("answer %+v, want %+v", got, want)
	}
	delete(header, "Date")
	want := http.Header{"Content-Type": {"text/plain; charset=utf-8"}, "Retry-After": {"7"}, "Content-Length": {"10"}}
	if diff := cmp.Diff(want, header); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

func TestRelayForwardsBodyOfAllowedPost(t *testing.T) {
	r := newRig(t)
	settings := testSettings
	settings.Relay.Allow = []string{"/metadata/scheduledevents"}
	r.server.SetSettings(settings)
	r.imds.answerWith(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %d %s", r.Header.Get("Content-Type"), r.ContentLength, body)
	})
	got, _ := r.dial().send(post("/metadata/scheduledevents", "{}"))
	if want := (reply{200, "application/x-www-form-urlencoded 2 {}"}); got != want {
		t.Errorf("answer %+v, want %+v", got, want)
	}
}

// What the node's IMDS must not be believed is a 500, which it documents as
// "try again" and clients retry.
func TestRelayUnusableResponses(t *testing.T) {
	want := reply{500, errorBody("server_error", "The instance metadata service gave no usable answer")}
	for name, handle := range map[string]http.HandlerFunc{
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/metadata/identity/oauth2/token", http.StatusTemporaryRedirect)
		},
		"too large": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(strings.Repeat("a", relayLimits.Document+1)))
		},
		"compressed": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Encoding", "gzip") },
		"cut off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "{")
		},
		"document that is not JSON": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "{\"compute\":{\"userData\":\"c2VjcmV0\"}} \x00")
		},
		"silence": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.imds.answerWith(handle)
			if got, _ := r.dial().send(get("/metadata/instance")); got != want {
				t.Errorf("answer %+v, want %+v", got, want)
			}
			if seen := r.imds.requests(); len(seen) != 1 {
				t.Errorf("seen by IMDS: %q", seen)
			}
		})
	}
}

func TestRelayEndsWithItsClient(t *testing.T) {
	for name, request := range map[string]string{
		"GET":  get("/metadata/scheduledevents"),
		"POST": post("/metadata/scheduledevents", "{}"),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			settings := testSettings
			settings.Relay.Allow = []string{"/metadata/scheduledevents"}
			r.server.SetSettings(settings)
			asked, left := make(chan struct{}), make(chan struct{})
			r.imds.answerWith(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.ReadAll(r.Body)
				close(asked)
				<-r.Context().Done()
				close(left)
			})
			c := r.dial()
			if _, err := io.WriteString(c, request); err != nil {
				t.Fatal(err)
			}
			<-asked
			begun := time.Now()
			c.reset()
			<-left
			if took := time.Since(begun); took >= documents[imdspath.ScheduledEvents].timeout {
				t.Errorf("ended after %v, by its timeout", took)
			}
		})
	}
}

func TestUserDataIsServedOnlyIfAllowed(t *testing.T) {
	r := newRig(t)
	const doc = `{"compute":{"name":"vm","userData":"c2VjcmV0"}}`
	r.imds.answerWith(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, doc) })
	c := r.dial()
	if got, _ := c.send(get("/metadata/instance")); got.Body != `{"compute":{"name":"vm"}}` {
		t.Errorf("withheld: %+v", got)
	}
	settings := testSettings
	settings.Relay.UserData = true
	r.server.SetSettings(settings) // takes effect at once, past the shared answer
	if got, _ := c.send(get("/metadata/instance")); got.Body != doc {
		t.Errorf("allowed: %+v", got)
	}
}
