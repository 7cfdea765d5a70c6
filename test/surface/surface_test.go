package surface

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/sidestep-agent/sidestep/pkg/broker"
	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
	"github.com/sidestep-agent/sidestep/test/standins/imds"
	"github.com/sidestep-agent/sidestep/test/standins/jwks"
)

const (
	tenant   = "11111111-1111-4111-8111-111111111111"
	client   = "22222222-2222-4222-8222-222222222222"
	object   = "33333333-3333-4333-8333-333333333333"
	resource = "https://vault.azure.net"
)

// targets are asked for by each of methods.
var targets = []string{
	"/metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + resource,
	"/metadata/identity/oauth2/token?api-version=2018-02-01",
	"/metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + resource + "&resource=" + resource,
	"/metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + resource + "&client_id=" + object,
	"//metadata/identity/oauth2/token/?api-version=2018-02-01&resource=" + resource,
	"/METADATA/identity/OAuth2/token?api-version=2018-02-01&resource=" + resource,
	"/metadata/identity/info?api-version=2018-02-01",
	"/metadata/identity/nothing?api-version=2018-02-01",
	"/metadata/identity",
	"/metadata/instance?api-version=2021-02-01",
	"/metadata/instance/?api-version=2021-02-01",
	"/metadata/instance?api-version=2021-02-01&format=text",
	"/Metadata/Instance/compute?api-version=2017-03-01",
	"/metadata/instance/compute/location?api-version=2020-06-01&format=text",
	"/metadata/instance/compute/location?api-version=2020-06-01",
	"/metadata/instance/compute/nothing?api-version=2021-02-01",
	"/metadata/instance/network/interface/0/ipv4?api-version=2017-04-02",
	"/metadata/instance/network/interface/9?api-version=2021-02-01",
	"/metadata/instance",
	"/metadata/instance?api-version=1999-01-01",
	"/metadata/instance?api-version=2025-04-07&unknown=1",
	"/metadata/versions",
	"/metadata/loadbalancer?api-version=2020-10-01",
	"/metadata/scheduledevents?api-version=2020-07-01",
	"/metadata/attested/document?api-version=2020-09-01",
	"/metadata/nothing?api-version=2021-02-01",
	"/metadata?api-version=2021-02-01",
	"/metadatax",
	"/",
	"/latest/meta-data/",
	"/latest/dynamic/instance-identity/document",
	"/computeMetadata/v1/instance/id",
	"/opc/v2/instance/",
	"/machine?comp=goalstate",
	"/metadata/../x",
}

var methods = []struct{ name, request string }{
	{"GET", "GET %s HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n"},
	{"GET without the header", "GET %s HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"},
	{"POST", "POST %s HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nContent-Length: 0\r\n\r\n"},
}

// differs has the requests that are meant to be answered otherwise than IMDS
// answers them, by the method's name and the target's beginning.
var differs = map[string]string{
	"POST /metadata/identity/oauth2/token":              "some clients send forms, which IMDS takes too",
	"POST //metadata/identity/oauth2/token":             "the same",
	"POST /METADATA/identity/OAuth2/token":              "the same",
	"GET without the header /metadata/identity/nothing": "no identity path is served, header or not",
	"GET without the header /metadata/identity?":        "the same",
	"POST /metadata/identity/info":                      "not documented",
	"GET /metadata/attested":                            "a proof of being the node is not for pods",
	"POST /metadata/attested":                           "the same",
	"POST /metadata/scheduledevents":                    "pods may not start events",
	"POST /metadata/nothing":                            "404 before 405: what is not there is not there by any method",
	"POST /metadata?":                                   "the same",
}

// peer is an Attester and Tokens of one steered pod.
type peer struct{}

func (peer) Inspect(net.Conn, uint64) (workload.Connection, error) {
	return workload.Connection{}, nil
}

func (peer) Attest(workload.Connection) (workload.Caller, workload.Verdict, error) {
	return workload.Caller{PodUID: "pod"}, workload.Steer, nil
}

func (peer) Await(context.Context, workload.Connection, workload.Caller) (workload.Verdict, error) {
	return workload.Steer, nil
}

func (peer) Current(workload.Caller) (workload.Workload, workload.Decision, error) {
	return workload.Workload{TenantID: tenant, ClientID: client, ServiceAccountSeen: true},
		workload.Decision{Verdict: workload.Steer, Access: workload.Identity}, nil
}

func (peer) Token(_ context.Context, w workload.Workload, r workload.TokenRequest) (workload.Token, error) {
	if r.ClientID != "" && r.ClientID != client {
		return workload.Token{}, &workload.TokenError{Kind: workload.IdentityNotFound, Description: "not this one"}
	}
	return workload.Token{Value: "t", Type: "Bearer", ClientID: w.ClientID, ExpiresOn: time.Now().Add(time.Hour)}, nil
}

func (peer) Cached(workload.Workload, workload.TokenRequest) (workload.Token, bool) {
	return workload.Token{}, false
}

// Dial connects as if the pod's network were this process's.
func (peer) Dial(ctx context.Context, _ workload.Caller, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", address)
}

func (peer) Readable(workload.Connection) (bool, string) { return false, "" }

func (peer) AwaitListener(context.Context, workload.Caller) bool { return true }

// answer is what clients decide by.
type answer struct {
	status int
	media  string
}

func ask(t *testing.T, address, request string) answer {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	defer resp.Body.Close()
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return answer{resp.StatusCode, media}
}

// newIMDS returns the stand-in's server.
func newIMDS(t *testing.T) *httptest.Server {
	t.Helper()
	directory, err := federation.Fixed(federation.File{
		Tenants: []string{tenant}, Resources: []string{resource},
		NodeIdentity: federation.NodeIdentity{TenantID: tenant, ClientID: client, PrincipalID: object, ResourceID: "/subscriptions/s/node"},
	})
	if err != nil {
		t.Fatal(err)
	}
	key, err := jwks.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	handler, err := imds.New(imds.Options{Federation: directory, Signer: key})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

// newBroker returns the address of a broker before that IMDS.
func newBroker(t *testing.T, endpoint string) string {
	t.Helper()
	clock := testingclock.NewFakeClock(time.Now())
	s, err := broker.New(broker.Options{
		Attester: peer{}, Tokens: peer{}, Paths: peer{}, IMDSEndpoint: endpoint, Clock: clock,
		Settings: broker.Settings{
			Relay: broker.RelaySettings{Instance: true}, Limits: broker.Limits{RequestsPerSecond: 1000, Concurrent: 64},
		},
		Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() { _ = s.Run(t.Context()) }()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.HandleConn(c, 0)
		}
	}()
	go func() { // the share of the VM's limit comes by itself
		for t.Context().Err() == nil {
			clock.Step(250 * time.Millisecond)
			time.Sleep(time.Millisecond)
		}
	}()
	return l.Addr().String()
}

func reason(method, target string) string {
	for prefix, why := range differs {
		if strings.HasPrefix(method+" "+target+"?", prefix) {
			return why
		}
	}
	return ""
}

// TestAnswersAreIMDSs sends each request to a broker and to the stand-in for
// IMDS, and compares status and media type.
func TestAnswersAreIMDSs(t *testing.T) {
	reference := newIMDS(t)
	address := newBroker(t, reference.URL)
	compared, different := 0, 0
	for _, method := range methods {
		for _, target := range targets {
			request := fmt.Sprintf(method.request, target)
			want := ask(t, reference.Listener.Addr().String(), request)
			got := ask(t, address, request)
			compared++
			why := reason(method.name, target)
			switch {
			case got != want && why == "":
				t.Errorf("%s %s: %+v, IMDS %+v", method.name, target, got, want)
			case got == want && why != "":
				t.Logf("%s %s: as IMDS, though it may differ: %s", method.name, target, why)
			case got != want:
				different++
			}
		}
	}
	t.Logf("%d requests compared, %d meant to differ", compared, different)
}
