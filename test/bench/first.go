package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/entra"
)

// restarts is how often the agent is restarted for the node's first token.
const restarts = 15

// posting is one bare exchange: what any program must send Entra for a token.
type posting struct {
	CA, URL string
	Form    url.Values
}

func init() {
	// Both return milliseconds.
	registerSession("ask", func(request []byte) (float64, error) {
		start := time.Now()
		_, err := fetch(fetching{imds, request})
		return float64(time.Since(start).Nanoseconds()) / 1e6, err
	})
	var client *http.Client // keeps its connection warm
	registerSession("post", func(p posting) (_ float64, err error) {
		if client == nil {
			if client, err = trusting(p.CA); err != nil {
				return 0, err
			}
		}
		start := time.Now()
		err = p.send(client)
		return float64(time.Since(start).Nanoseconds()) / 1e6, err
	})
}

func trusting(ca string) (*http.Client, error) {
	text, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
	}}, nil
}

func (p posting) send(client *http.Client) error {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, p.URL, strings.NewReader(p.Form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("answer %d of Entra: %s", resp.StatusCode, body)
	}
	return err
}

// newPosting returns the exchange for the workload's token, in the form in
// which MSAL sends it.
func newPosting(s *scene.Scene, w *scene.Workload, resource string) posting {
	return posting{
		CA: s.CA, URL: scene.EntraURL + "/" + tenant + "/oauth2/v2.0/token",
		Form: url.Values{
			"client_id": {id(1, 0)}, "scope": {resource + "/.default"}, "grant_type": {"client_credentials"},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
			"client_assertion":      {w.Assertion},
		},
	}
}

// measureFirst returns the rows of tokens that are not in the cache: what they
// take above a bare exchange on a warm connection.
func measureFirst(ctx context.Context, s *scene.Scene, w *scene.Workload, r *report) (err error) {
	asker, err := startSession(w.Pod, "ask")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, asker.end()) }()
	poster, err := startSession(nil, "post")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, poster.end()) }()
	f := firstTokens{scene: s, workload: w, asker: asker, poster: poster}
	ask, post, err := f.pairs()
	if err != nil {
		return err
	}
	above := difference(ask, post)
	r.Rows = append(r.Rows, valueRow("first token of a pod", fmt.Sprintf("%.2f ms", median(ask)),
		fmt.Sprintf("%.2f ms, a bare POST, warm", median(post)), above, atMost(3, " ms more")))
	if ask, post, err = f.afterStart(ctx); err != nil {
		return err
	}
	r.Rows = append(r.Rows, valueRow("first token of an agent that just started", fmt.Sprintf("%.2f ms", median(ask)),
		fmt.Sprintf("%.2f ms, a bare POST, warm", median(post)), difference(ask, post), atMost(3, " ms more")))
	return nil
}

type firstTokens struct {
	scene         *scene.Scene
	workload      *scene.Workload
	asker, poster *session
}

// pairs asks by the agent and by a bare POST in turns.
func (f firstTokens) pairs() (ask, post []float64, err error) {
	n := 0
	all, err := take(firsts-restarts-1, func() (float64, error) {
		n++
		return f.asker.number(tokenRequest(firstResource(n)))
	}, func() (float64, error) {
		return f.poster.number(newPosting(f.scene, f.workload, firstResource(n)))
	})
	if err != nil {
		return nil, nil, err
	}
	return all[0], all[1], nil
}

// afterStart restarts the agent and asks for a token, several times, each
// time after a bare POST. Entra must have been asked for its discovery document
// before.
func (f firstTokens) afterStart(ctx context.Context) (ask, post []float64, err error) {
	for n := range restarts {
		if err := f.scene.Agent.End(ctx); err != nil {
			return nil, nil, err
		}
		known, err := f.discoveries()
		if err != nil {
			return nil, nil, err
		}
		if err := f.scene.Restart(ctx); err != nil {
			return nil, nil, err
		}
		if err := f.awaitDiscovery(ctx, known); err != nil {
			return nil, nil, err
		}
		bare, err := f.poster.number(newPosting(f.scene, f.workload, firstResource(firsts-n)))
		if err != nil {
			return nil, nil, err
		}
		took, err := f.asker.number(tokenRequest(firstResource(firsts - n)))
		if err != nil {
			return nil, nil, err
		}
		ask, post = append(ask, took), append(post, bare)
	}
	return ask, post, nil
}

// awaitDiscovery waits until Entra has been asked for its documents more often
// than that. No token was requested by then.
func (f firstTokens) awaitDiscovery(ctx context.Context, known int) error {
	for {
		n, err := f.discoveries()
		if err != nil || n > known {
			return err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait until the agent has asked Entra for its discovery document: %w", ctx.Err())
		}
	}
}

func (f firstTokens) discoveries() (n int, err error) {
	log, err := scene.Entries[entra.Entry](&f.scene.Cloud.Logs.Entra)
	for _, e := range log {
		if e.Kind == entra.OpenIDConfiguration {
			n++
		}
	}
	return n, err
}

// difference returns the median of what the first takes above the second.
func difference(a, b []float64) float64 {
	all := make([]float64, len(a))
	for i := range all {
		all[i] = a[i] - b[i]
	}
	return median(all)
}
