package broker

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

var update = flag.Bool("update", false, "rewrite the answers in testdata/clients")

// TestClientsRequests replays what real clients send, byte for byte, over a
// connection of their own, and compares each answer's bytes with those in
// testdata/clients. Each file of requests says where they are from.
func TestClientsRequests(t *testing.T) {
	files, err := filepath.Glob("testdata/clients/*.requests")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, error %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".requests")
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			var answers strings.Builder
			for _, s := range readSections(t, file) {
				answer := r.replay(s.text)
				judgeAnswer(t, s, answer)
				fmt.Fprintf(&answers, "=== %s\nasked: %s\n%s\n", s.name, asked(answer.asked), answer.raw)
			}
			golden := strings.TrimSuffix(file, ".requests") + ".answers"
			if *update {
				if err := os.WriteFile(golden, []byte(answers.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), answers.String()); diff != "" {
				t.Errorf("answers (-want +got):\n%s", diff)
			}
		})
	}
}

// section is one request of a file.
type section struct{ name, text string }

// readSections reads "=== name", a newline, the request's bytes and a newline,
// again and again. What stands before the first is for people.
func readSections(t *testing.T, file string) []section {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []section
	for i, part := range strings.Split("\n"+string(text), "\n=== ") {
		if i == 0 {
			continue
		}
		name, request, _ := strings.Cut(part, "\n")
		all = append(all, section{name, request})
	}
	if len(all) == 0 {
		t.Fatalf("%s has no request", file)
	}
	last := &all[len(all)-1].text
	*last = strings.TrimSuffix(*last, "\n")
	return all
}

type replayed struct {
	raw   string
	asked []workload.TokenRequest
}

var dateHeader = regexp.MustCompile(`\r\nDate: [^\r]*\r\n`)

// replay sends the bytes on a new connection and returns the answer's, with
// the date taken out, and what was asked of Tokens meanwhile.
func (r *rig) replay(request string) replayed {
	r.t.Helper()
	before := len(r.tokens.requests())
	c := r.dial()
	if _, err := io.WriteString(c, request); err != nil {
		r.t.Fatal(err)
	}
	raw := dateHeader.ReplaceAllString(c.receiveRaw(), "\r\nDate: -\r\n")
	return replayed{raw, r.tokens.requests()[before:]}
}

// receiveRaw returns the bytes of one response, without "100 Continue".
func (c *client) receiveRaw() string {
	c.t.Helper()
	var head strings.Builder
	for !strings.HasSuffix(head.String(), "\r\n\r\n") {
		line, err := c.reader.ReadString('\n')
		if err != nil {
			c.t.Fatalf("read response after %q: %v", head.String(), err)
		}
		head.WriteString(line)
	}
	if strings.HasPrefix(head.String(), "HTTP/1.1 100 ") {
		return c.receiveRaw()
	}
	var length int
	for line := range strings.Lines(head.String()) {
		_, _ = fmt.Sscanf(line, "Content-Length: %d", &length)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(c.reader, body); err != nil {
		c.t.Fatalf("read body: %v", err)
	}
	return head.String() + string(body)
}

// asked returns what Tokens was asked for, for the files of answers.
func asked(requests []workload.TokenRequest) string {
	var all []string
	for _, r := range requests {
		all = append(all, fmt.Sprintf("resource=%s client_id=%s object_id=%s mi_res_id=%s", r.Resource, r.ClientID, r.ObjectID, r.ResourceID))
	}
	return strings.Join(all, "; ")
}

// judgeAnswer holds an answer to what every client needs of it, so that no
// file of answers can say otherwise.
func judgeAnswer(t *testing.T, s section, got replayed) {
	t.Helper()
	head, body, _ := strings.Cut(got.raw, "\r\n\r\n")
	statusLine, _, _ := strings.Cut(head, "\r\n")
	_, status, _ := strings.Cut(statusLine, " ")
	if want := statusOf(s.text); status != want {
		t.Errorf("%s: status %q, want %q", s.name, status, want)
	}
	if want := contentOf(s.text); !strings.Contains(head, "\r\nContent-Type: "+want+"\r\n") {
		t.Errorf("%s: not %s:\n%s", s.name, want, head)
	}
	if strings.HasPrefix(status, "200") && strings.Contains(body, "access_token") {
		judgeToken(t, s, got, body)
	}
	if status == "400 Bad Request" && !metadataLine.MatchString(s.text) && body != noHeader {
		t.Errorf("%s: probe is answered %s", s.name, body)
	}
}

var metadataLine = regexp.MustCompile(`(?i)\r\nmetadata: ?true\r\n`)

// statusOf returns the status that the request deserves.
func statusOf(request string) string {
	target := strings.ToLower(strings.Fields(request)[1])
	path, _, _ := strings.Cut(target, "?")
	switch {
	case isOtherClouds(path), strings.HasPrefix(path, "/metadata/identity/get"), strings.HasPrefix(path, "/metadata/identity/issue"):
		return "404 Not Found"
	case strings.HasPrefix(path, "/metadata/instance"), strings.HasPrefix(path, "/metadata/loadbalancer"), strings.HasPrefix(path, "/metadata/identity/info"):
		return "200 OK"
	case !metadataLine.MatchString(request), strings.Contains(request, "\r\nX-Forwarded-For:"):
		return "400 Bad Request"
	}
	return "200 OK"
}

// isOtherClouds reports whether a path is none of IMDS's: what looks for another
// cloud there must not take the answer for that cloud's.
func isOtherClouds(path string) bool {
	return !strings.HasPrefix("/"+strings.TrimLeft(path, "/"), "/metadata/")
}

// contentOf returns the content type of the answer.
func contentOf(request string) string {
	if isOtherClouds(strings.ToLower(strings.Fields(request)[1])) {
		return "text/html"
	}
	return "application/json; charset=utf-8"
}

// judgeToken checks a token's fields: their order, that each is a string, and
// that the resource is the one that was asked for.
func judgeToken(t *testing.T, s section, got replayed, body string) {
	t.Helper()
	var order []string
	fields := map[string]string{}
	d := json.NewDecoder(bytes.NewReader([]byte(body)))
	_, _ = d.Token()
	for d.More() {
		name, _ := d.Token()
		value, err := d.Token()
		text, ok := value.(string)
		if err != nil || !ok {
			t.Fatalf("%s: %v is %v, error %v", s.name, name, value, err)
		}
		order = append(order, name.(string))
		fields[name.(string)] = text
	}
	want := []string{"access_token", "client_id", "expires_in", "expires_on", "ext_expires_in", "not_before", "resource", "token_type"}
	if !slices.Equal(order, want) {
		t.Errorf("%s: fields %q", s.name, order)
	}
	if len(got.asked) != 1 || fields["resource"] != got.asked[0].Resource {
		t.Errorf("%s: resource %q, asked for %+v", s.name, fields["resource"], got.asked)
	}
}
