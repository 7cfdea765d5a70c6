package broker

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	clientsPage  = "../../docs/clients.md"
	pageStart    = "<!-- what clients ask: written by go test ./pkg/broker -run TestClientsPage -update -->\n"
	pageEnd      = "<!-- end of what clients ask -->\n"
	waitsLine    = "# Waits: "
	retriesLine  = "# Retries: "
	pageTableTop = "| case | request | headers |\n|---|---|---|\n"
)

// TestClientsPage holds the page to the requests that TestClientsRequests
// replays: what each client asks for, by path, query and headers. How long it
// waits and when it tries again no request shows; the head of its file says so,
// as the client's source has it.
func TestClientsPage(t *testing.T) {
	page, err := os.ReadFile(clientsPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(page), pageStart)
	have, after, ended := strings.Cut(rest, pageEnd)
	if !found || !ended {
		t.Fatalf("%s has no lines %q and %q", clientsPage, pageStart, pageEnd)
	}
	want := askedByClients(t)
	if *update {
		if err := os.WriteFile(clientsPage, []byte(before+pageStart+want+pageEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("write it again with -update (-want +got):\n%s", diff)
	}
}

func askedByClients(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("testdata/clients/*.requests")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, error %v", len(files), err)
	}
	var page strings.Builder
	for _, file := range files {
		waits, retries := patienceOf(t, file)
		fmt.Fprintf(&page, "\n### %s\n\nWaits: %s. Retries: %s.\n\n%s",
			strings.TrimSuffix(filepath.Base(file), ".requests"), waits, retries, pageTableTop)
		for _, s := range readSections(t, file) {
			request, headers := describe(t, s)
			fmt.Fprintf(&page, "| %s | `%s` | %s |\n", s.name, request, headers)
		}
	}
	page.WriteByte('\n')
	return page.String()
}

// patienceOf returns what the head of a file says of timeouts and retries.
func patienceOf(t *testing.T, file string) (waits, retries string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(text), "\n=== ")
	for line := range strings.Lines(head) {
		line = strings.TrimSpace(line)
		if value, ok := strings.CutPrefix(line, waitsLine); ok {
			waits = value
		}
		if value, ok := strings.CutPrefix(line, retriesLine); ok {
			retries = value
		}
	}
	if waits == "" || retries == "" {
		t.Errorf("%s: the head has no lines %q and %q", file, waitsLine, retriesLine)
	}
	return waits, retries
}

// describe returns the method, path and query of a request, and its headers but
// for those that every client sends or that are another at each run.
func describe(t *testing.T, s section) (request, headers string) {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(s.text)))
	if err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	path, query, asks := strings.Cut(r.RequestURI, "?")
	if asks {
		query = "?" + describeQuery(query)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	var form string
	if len(bytes.TrimSpace(body)) > 0 {
		form = " with a body"
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
			form = " " + describeQuery(string(body))
		}
	}
	return strings.ReplaceAll(r.Method+" "+path+query+form, "|", "\\|"), describeHeaders(r)
}

// describeQuery returns the parameters in the order in which they are sent, the
// identities' ids left out.
func describeQuery(query string) string {
	var all []string
	for parameter := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(parameter, "=")
		if strings.HasSuffix(name, "_id") || strings.HasSuffix(name, "_res_id") {
			value = "…"
		}
		all = append(all, name+"="+strings.NewReplacer("%3A", ":", "%3a", ":", "%2F", "/", "%2f", "/").Replace(value))
	}
	return strings.Join(all, "&")
}

// describeHeaders shows the value of Metadata, and of no other header.
func describeHeaders(r *http.Request) string {
	var all []string
	for name, values := range r.Header {
		switch {
		case name == "Metadata":
			all = append(all, "`Metadata: "+values[0]+"`")
		case name != "Content-Length":
			all = append(all, name)
		}
	}
	slices.SortFunc(all, func(a, b string) int { // Metadata first: it decides
		am, bm := strings.HasPrefix(a, "`"), strings.HasPrefix(b, "`")
		if am != bm {
			return map[bool]int{true: -1, false: 1}[am]
		}
		return strings.Compare(a, b)
	})
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}
