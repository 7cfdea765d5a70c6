package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
)

// record runs the clients in a pod that passes, so that they speak with the
// metadata service's stand-in themselves, and writes what each sends to
// <short>.requests in the directory: for each request a line "=== <case>" and
// then its bytes, as they were sent but for the machine's kernel release, and a
// newline.
func record(ctx context.Context, o options, out io.Writer) (err error) {
	file, err := federation.Parse(federationYAML)
	if err != nil {
		return err
	}
	pod := &scene.Workload{Namespace: namespace, Name: "passes", Account: "default"}
	tape, azure := &tape{}, newAzure()
	s, err := scene.Open(ctx, azure.serve(scene.Options{
		Agent: o.agent, Federation: file, VaultName: vaultName, Workloads: []*scene.Workload{pod},
		WrapIMDS: tape.wrap,
	}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	blobs, err := startAzurite(ctx, s, azure, o.clients)
	if err != nil {
		return err
	}
	defer blobs.stop()
	node := file.NodeIdentity
	own := federation.Identity{ClientID: node.ClientID, PrincipalID: node.PrincipalID, ResourceID: node.ResourceID}
	ids := identities{"none": own, "client": own, "object": own, "resource": own}
	for _, c := range catalog(o.clients) {
		if !o.only.MatchString(c.name) {
			continue
		}
		text, err := recordClient(ctx, s, pod, c, ids, tape)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		path := filepath.Join(o.record, c.short+".requests")
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
		fmt.Fprintln(out, path)
	}
	return nil
}

// head returns what stands before a client's requests.
func (c client) head() string {
	return fmt.Sprintf("# Recorded from the client itself by test/clients/conformance -record.\n# Waits: %s\n# Retries: %s\n", c.waits, c.retries)
}

func recordClient(ctx context.Context, s *scene.Scene, pod *scene.Workload, c client, ids identities, t *tape) ([]byte, error) {
	var text bytes.Buffer
	text.WriteString(c.head())
	var machine unix.Utsname
	if err := unix.Uname(&machine); err != nil {
		return nil, err
	}
	release := unix.ByteSliceToString(machine.Release[:])
	c.vault = false // the node's identity may do nothing there
	for _, test := range c.cases {
		if err := perform(ctx, s, pod, c, test, ids.id(test.by), t); err != nil {
			return nil, fmt.Errorf("%s: %w", test, err)
		}
		requests, err := t.requests()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", test, err)
		}
		if test.mode == "detect" { // what is asked at the same time comes in any order
			slices.Sort(requests)
		}
		// The budgets are what IMDS itself is asked.
		if most := test.budget; len(requests) != most.probes+most.refusals+most.tokens {
			return nil, fmt.Errorf("%s: %d requests, the budget is %s", test, len(requests), most)
		}
		for i, request := range requests {
			if slices.Contains(requests[:i], request) {
				continue // what is sent a second time tells nothing new
			}
			fmt.Fprintf(&text, "=== %s\n%s\n", test, strings.ReplaceAll(request, release, "5.15.0"))
		}
	}
	return text.Bytes(), nil
}

// perform has the client ask once, with a new tape. A client that probes does so
// with a timer of its own, which runs out on a busy machine: it is tried again.
func perform(ctx context.Context, s *scene.Scene, pod *scene.Workload, c client, test testCase, id string, t *tape) error {
	for try := 1; ; try++ {
		t.rewind()
		r, err := ask(ctx, s, pod, c, test, id)
		switch {
		case err != nil:
			return err
		case r.Error == "":
			return nil
		case try == tries || test.budget.probes == 0:
			return errors.New(r.Error)
		}
	}
}

// tape keeps what each connection of the metadata service has received.
type tape struct {
	mu    sync.Mutex
	conns []*recordedConn
}

func (t *tape) wrap(l net.Listener) net.Listener { return &recordedListener{l, t} }

func (t *tape) rewind() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conns = nil
}

// requests returns each whole request's bytes, in the order of the connections.
func (t *tape) requests() ([]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []string
	for _, c := range t.conns {
		split, err := splitRequests(c.received.Bytes())
		if err != nil {
			return nil, err
		}
		all = append(all, split...)
	}
	return all, nil
}

// splitRequests cuts a connection's bytes where one request ends and the next
// begins.
func splitRequests(text []byte) ([]string, error) {
	var all []string
	source := bytes.NewReader(text)
	reader := bufio.NewReader(source)
	for at := 0; at < len(text); {
		r, err := http.ReadRequest(reader)
		if err != nil {
			return nil, fmt.Errorf("what was sent is no request: %w", err)
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return nil, err
		}
		end := len(text) - source.Len() - reader.Buffered()
		all = append(all, string(text[at:end]))
		at = end
	}
	return all, nil
}

type recordedListener struct {
	net.Listener
	tape *tape
}

// Accept returns a connection whose bytes go on the tape.
func (l *recordedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	recorded := &recordedConn{Conn: c, tape: l.tape}
	l.tape.mu.Lock()
	defer l.tape.mu.Unlock()
	l.tape.conns = append(l.tape.conns, recorded)
	return recorded, nil
}

type recordedConn struct {
	net.Conn
	tape     *tape
	received bytes.Buffer // under tape.mu
}

// Read implements net.Conn.
func (c *recordedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.tape.mu.Lock()
	defer c.tape.mu.Unlock()
	c.received.Write(p[:n])
	return n, err
}
