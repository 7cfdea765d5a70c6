package broker

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"time"
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
