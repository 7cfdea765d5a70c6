package outages

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// app is an application in a pod, which asks as the SDKs do.
type app struct {
	rig    *rig
	url    string
	client *http.Client
}

// answer is what came back, for tests to judge.
type answer struct {
	status     int // 0: none
	retryAfter time.Duration
	token      string
	left       time.Duration // expires_in
	body       string
	took       time.Duration
}

// clientPatience is how long every known client waits for an answer.
const clientPatience = 35 * time.Second

// app starts a pod that runs as the identity, with its service account token in
// place and a listener of its own.
func (r *rig) app(identity int, name string) *app {
	r.t.Helper()
	return r.appAged(identity, name, time.Hour)
}

// appAged is app for a pod that is no older than that.
func (r *rig) appAged(identity int, name string, age time.Duration) *app {
	r.t.Helper()
	w := workload.Workload{
		PodUID: "pod-" + accountOf(identity) + "-" + name, PodName: name, Namespace: namespace,
		ServiceAccount: accountOf(identity), ServiceAccountUID: "sa-" + accountOf(identity), ServiceAccountSeen: true,
		ClientID: clientOf(identity), ChangedAt: time.Now().Add(-age),
		Projected: &workload.ProjectedToken{Volume: "azure-identity-token", Path: "azure-identity-token"},
	}
	r.writeAssertion(w)
	cookie := r.attester.add(w)
	var plain net.ListenConfig
	l, err := plain.Listen(r.t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go r.broker.HandleConn(c, cookie)
		}
	}()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	r.t.Cleanup(transport.CloseIdleConnections)
	return &app{rig: r, client: &http.Client{Transport: transport, Timeout: clientPatience},
		url: "http://" + l.Addr().String() + "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=" + vault}
}

func (r *rig) writeAssertion(w workload.Workload) {
	r.t.Helper()
	now := time.Now()
	signed, err := keys().cluster.Sign(map[string]any{
		"iss": r.issuer, "sub": w.Subject(), "aud": []string{"api://AzureADTokenExchange"},
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{"namespace": w.Namespace, "pod": map[string]any{"name": w.PodName, "uid": w.PodUID}},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	dir := filepath.Join(r.dir, "pods", w.PodUID, "volumes", "kubernetes.io~projected", w.Projected.Volume)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, w.Projected.Path), []byte(signed), 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.assertions = append(r.assertions, signed)
}

// ask asks once.
func (a *app) ask() (got answer) {
	began := time.Now()
	defer func() { got.took = time.Since(began) }()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, a.url, http.NoBody)
	if err != nil {
		a.rig.t.Error(err)
		return answer{}
	}
	req.Header.Set("Metadata", "true")
	resp, err := a.client.Do(req)
	if err != nil {
		return answer{body: err.Error()}
	}
	defer func() { _ = resp.Body.Close() }()
	var body struct {
		Token       string `json:"access_token"`
		ExpiresIn   string `json:"expires_in"`
		Description string `json:"error_description"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		return answer{status: resp.StatusCode, body: err.Error()}
	}
	seconds := func(s string) time.Duration {
		n, _ := strconv.Atoi(s)
		return time.Duration(n) * time.Second
	}
	return answer{
		status: resp.StatusCode, retryAfter: seconds(resp.Header.Get("Retry-After")),
		token: body.Token, left: seconds(body.ExpiresIn), body: body.Description,
	}
}

// askUntilAnswered asks as the SDKs do: after a 429 again, when it says so. It
// returns the first answer and the last.
func (a *app) askUntilAnswered() (first, last answer) {
	const tries = 5
	first = a.ask()
	last = first
	for i := 1; i < tries && last.status == http.StatusTooManyRequests; i++ {
		time.Sleep(last.retryAfter)
		last = a.ask()
	}
	return first, last
}

// mustAsk asks once and fails the test without a token.
func (a *app) mustAsk() answer {
	a.rig.t.Helper()
	got := a.ask()
	if got.status != http.StatusOK {
		a.rig.t.Fatalf("%v", got)
	}
	return got
}

// String has no token in it.
func (a answer) String() string {
	switch {
	case a.status == 0:
		return "no answer: " + a.body
	case a.status == http.StatusOK:
		return fmt.Sprintf("200 after %.1fs", a.took.Seconds())
	case a.retryAfter > 0:
		return fmt.Sprintf("%d after %.1fs, Retry-After: %.0f", a.status, a.took.Seconds(), a.retryAfter.Seconds())
	}
	return fmt.Sprintf("%d after %.1fs (%.40s…)", a.status, a.took.Seconds(), a.body)
}
