package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// asked is what the agents asked for in a stretch of the audit log.
type asked struct {
	Lists   int `json:"lists"`
	Watches int `json:"watches"`
	Refused int `json:"refused"` // of these: not answered with 200
	Peak    int `json:"peakPerSecond"`
	// Foreign are requests for more than a node's own pods and the service
	// accounts that they use. There must be none.
	Foreign []string `json:"foreign,omitempty"`
}

// auditEvent is a line of the audit log.
type auditEvent struct {
	Verb       string    `json:"verb"`
	RequestURI string    `json:"requestURI"`
	Received   time.Time `json:"requestReceivedTimestamp"`
	Response   struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
}

// askedSince reads what came in at the apiserver since a time.
func (c *controlPlane) askedSince(since time.Time) (asked, error) {
	var a asked
	// The log is turned over at 100 MB; the parts are beside it.
	parts, err := filepath.Glob(filepath.Join(c.dir, "audit*.log"))
	if err != nil {
		return a, err
	}
	seconds := map[int64]int{}
	for _, part := range parts {
		if err := readAudit(part, func(e auditEvent) {
			if !e.Received.Before(since) {
				a.add(e)
				seconds[e.Received.Unix()]++
			}
		}); err != nil {
			return a, err
		}
	}
	for _, n := range seconds {
		a.Peak = max(a.Peak, n)
	}
	return a, nil
}

func readAudit(name string, each func(auditEvent)) error {
	file, err := os.Open(name) //nolint:gosec // the path is the program's own
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e auditEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		each(e)
	}
	return lines.Err()
}

func (a *asked) add(e auditEvent) {
	switch e.Verb {
	case "list":
		a.Lists++
	case "watch":
		a.Watches++
	}
	if e.Response.Code != http.StatusOK {
		a.Refused++
	}
	if !ownOnly(e.RequestURI) && len(a.Foreign) < 10 {
		a.Foreign = append(a.Foreign, e.Verb+" "+e.RequestURI)
	}
}

// ownOnly reports whether a request is for one node's pods or for one service
// account.
func ownOnly(requestURI string) bool {
	u, err := url.ParseRequestURI(requestURI)
	if err != nil {
		return false
	}
	selector := u.Query().Get("fieldSelector")
	switch {
	case u.Path == "/api/v1/pods":
		return strings.HasPrefix(selector, "spec.nodeName=")
	case strings.HasSuffix(u.Path, "/serviceaccounts"):
		return strings.HasPrefix(u.Path, "/api/v1/namespaces/") && strings.HasPrefix(selector, "metadata.name=")
	}
	return false
}
