package metricsserver

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// How often the metrics are gathered, which takes milliseconds: so many times
// at once, and so many in each second after that. What is beyond it gets the
// last answer, which is then some 0.1 s old.
const (
	gatherBurst = 20
	gatherRate  = 10
)

// Scrapes returns a handler that answers as h does and has all who ask at a time
// share one answer. An answer is whole before a byte of it is sent, so that a
// client which does not read costs what a connection does, and keeps nobody
// waiting. h is asked for a GET whose only header says whether the answer may be
// compressed.
func Scrapes(h http.Handler) http.Handler {
	newAnswers := func(encoding string) *answers {
		return &answers{handler: h, encoding: encoding, budget: rate.NewLimiter(gatherRate, gatherBurst)}
	}
	plain, compressed := newAnswers(""), newAnswers("gzip")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all := plain
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			all = compressed
		}
		all.get(r).send(w)
	})
}

// answers has the last answer in one encoding.
type answers struct {
	handler  http.Handler
	encoding string // empty: none

	mu     sync.Mutex // is held while the handler answers
	budget *rate.Limiter
	last   *answer // nil: none yet
}

// get returns an answer that was begun after it was asked for, or the last one
// if there were too many.
func (a *answers) get(r *http.Request) *answer {
	asked := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last != nil && (a.last.begun.After(asked) || !a.budget.Allow()) {
		return a.last
	}
	if a.last == nil {
		a.budget.Allow()
	}
	shared := r.Clone(r.Context())
	shared.Header = http.Header{}
	if a.encoding != "" {
		shared.Header.Set("Accept-Encoding", a.encoding)
	}
	made := &answer{begun: time.Now(), header: http.Header{}, status: http.StatusOK}
	a.handler.ServeHTTP(made, shared)
	a.last = made
	return made
}

// answer is a whole answer. It implements http.ResponseWriter for whoever makes
// it.
type answer struct {
	begun  time.Time
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) { a.status = status }

// Write implements http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

// send sends the answer, which others may be sending too.
func (a *answer) send(w http.ResponseWriter) {
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Length", strconv.Itoa(a.body.Len()))
	w.WriteHeader(a.status)
	_, _ = io.Copy(w, bytes.NewReader(a.body.Bytes()))
}
