package broker

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const contentJSON = "application/json; charset=utf-8"

// answer is one whole HTTP answer.
type answer struct {
	status      int
	contentType string
	body        []byte
	retryAfter  string // Retry-After; empty: none
	allow       string // Allow; empty: none
	close       bool   // the connection ends with it
}

// write sends the answer.
func (a answer) write(w http.ResponseWriter) {
	h := w.Header()
	set := func(name, value string) {
		if value != "" {
			h[name] = []string{value}
		}
	}
	set("Content-Type", a.contentType)
	set("Retry-After", a.retryAfter)
	set("Allow", a.allow)
	set("Content-Length", strconv.Itoa(len(a.body)))
	if a.close {
		h.Set("Connection", "close")
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // a client that has left needs no answer
}

// bytes returns the answer as it is sent where there is no http.Server.
func (a answer) bytes() []byte {
	header := http.Header{"Content-Type": {a.contentType}}
	if a.retryAfter != "" {
		header.Set("Retry-After", a.retryAfter)
	}
	r := http.Response{
		StatusCode: a.status, ProtoMajor: 1, ProtoMinor: 1, Close: a.close, Header: header,
		Body: io.NopCloser(bytes.NewReader(a.body)), ContentLength: int64(len(a.body)),
	}
	var b bytes.Buffer
	_ = r.Write(&b) // to memory
	return b.Bytes()
}

// imdsError is an error as IMDS spells it. Clients read both fields.
type imdsError struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
}

func problem(status int, code, description string) answer {
	return answerJSON(status, imdsError{Error: code, Description: description})
}

func invalidRequest(description string) answer {
	return problem(http.StatusBadRequest, "invalid_request", description)
}

func forbidden(description string) answer {
	return problem(http.StatusForbidden, "access_denied", description)
}

func notFound() answer {
	return problem(http.StatusNotFound, "not_found", "Not found")
}

func methodNotAllowed(allow string) answer {
	a := problem(http.StatusMethodNotAllowed, "method_not_allowed", "Method not allowed")
	a.allow = allow
	return a
}

// throttled is IMDS's own answer under load, the one that clients retry most
// widely. The wait is rounded up to whole seconds and is never 0, which
// clients take for "at once".
func throttled(wait time.Duration) answer {
	a := problem(http.StatusTooManyRequests, "invalid_request", "Temporarily throttled, too many requests")
	a.retryAfter = strconv.FormatInt(int64(max((wait+time.Second-1)/time.Second, 1)), 10)
	return a
}

// tryAgain asks a client to try again on a new connection.
func tryAgain() answer {
	a := throttled(time.Second)
	a.close = true
	return a
}

// required is IMDS's answer to a request for a token without the Metadata
// header, by which clients find out that there is an IMDS.
func required() answer { return invalidRequest("Required metadata header not specified") }

// metadataRequired is the same on every path outside the identity endpoint,
// where IMDS spells errors otherwise.
func metadataRequired() answer {
	return answerJSON(http.StatusBadRequest, struct {
		Error string `json:"error"`
	}{"Bad request. Required metadata header not specified"})
}

// pageNotFound is IMDS's answer on a path outside /metadata. It is no JSON, as
// clients that look for other clouds there parse JSON without a look at the
// status.
func pageNotFound() answer {
	return answer{status: http.StatusNotFound, contentType: "text/html", body: []byte(notFoundPage)}
}

const notFoundPage = `<!DOCTYPE html>
<html><head><title>404 - File or directory not found.</title></head>
<body><h1>404 - File or directory not found.</h1></body></html>
`

// answerJSON returns v as JSON. v is a struct of strings.
func answerJSON(status int, v any) answer {
	return answer{status: status, contentType: contentJSON, body: encode(v)}
}

// encode returns v as JSON, its fields in the order of its type and no
// character escaped that JSON does not ask for. v is a string or a struct of
// strings.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // strings always encode
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// identityNotFound is the beginning of IMDS's answer to a request for an
// identity that is not there. Credential chains know it by these words.
const identityNotFound = "Identity not found"

// tokenFailure returns the answer that makes clients do what the failure
// calls for: give up at once on a wrong set-up, else try again.
func tokenFailure(err error, r workload.TokenRequest) answer {
	var te *workload.TokenError
	if !errors.As(err, &te) {
		return throttled(0)
	}
	description := te.Description
	if te.Meaning != "" {
		description = te.Code + ": " + te.Meaning + ". (" + te.Description + ")"
	}
	if te.Fix != "" {
		description += " Fix: " + te.Fix
	}
	if te.Code != "" && !strings.HasPrefix(description, te.Code) {
		description = te.Code + ": " + description
	}
	switch te.Kind {
	case workload.IdentityNotFound:
		return invalidRequest(identityNotFound + ": " + description)
	case workload.InvalidResource:
		return problem(http.StatusBadRequest, "invalid_resource", description)
	case workload.Refused:
		if r.Selects() {
			description = identityNotFound + ": " + description
		}
		return invalidRequest(description)
	default:
		return throttled(te.RetryAfter)
	}
}
