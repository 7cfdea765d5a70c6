package broker

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// probeAfter is how long a caller may be unknown before its bytes are looked
// at: most are known at once.
const probeAfter = 50 * time.Millisecond

// isProbe reports whether the request is one on the token path without the
// Metadata header. IMDS and the broker answer it in the same words whoever
// asks.
func isProbe(r *http.Request) bool {
	return loose(rawPath(r.RequestURI)) == tokenPath && !hasMetadata(r)
}

func hasMetadata(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Metadata"), "true")
}

// required is the answer to a probe.
func required() answer { return invalidRequest("Required metadata header not specified") }

// verdict is what Await returned.
type verdict struct {
	workload.Verdict
	err error
}

// early reads a caller's first request while nobody knows yet who calls. If
// that is a probe it is answered: a client that finds out whether there is an
// IMDS waits for 300 ms, a caller may be held for much longer. What else was
// read is read again from the connection that comes back.
func (s *Server) early(c net.Conn, known <-chan verdict) (net.Conn, verdict) {
	read := make(chan []byte, 1)
	go func() { read <- firstRequest(c) }()
	var first []byte
	var now verdict
	select {
	case first = <-read:
		if probe(first) {
			first = nil
			s.answerProbe(c)
		}
		now = <-known
	case now = <-known:
		_ = c.SetReadDeadline(time.Now()) // ends the reading
		first = <-read
	}
	_ = c.SetReadDeadline(time.Time{})
	if len(first) == 0 {
		return c, now
	}
	return &reread{Conn: c, first: bytes.NewReader(first)}, now
}

func (s *Server) answerProbe(c net.Conn) {
	a := required()
	_, err := c.Write(a.bytes())
	s.metrics.observe(endpointToken, a.status, probeAfter)
	s.log.Debug("probe of a caller that is not known yet", "status", a.status, "err", err)
}

// firstRequest returns the connection's first bytes, up to the end of the
// first request's header where it comes.
func firstRequest(c net.Conn) []byte {
	const most = 4 << 10 // probes are short
	text := make([]byte, 0, most)
	for len(text) < cap(text) {
		n, err := c.Read(text[len(text):cap(text)])
		text = text[:len(text)+n]
		if err != nil || bytes.Contains(text, headerEnd) {
			break
		}
	}
	return text
}

// probe reports whether the bytes are one probe and nothing more.
func probe(text []byte) bool {
	source := bytes.NewReader(text)
	reader := bufio.NewReader(source)
	r, err := http.ReadRequest(reader)
	if err != nil || r.ContentLength != 0 || r.Close || !r.ProtoAtLeast(1, 1) || r.Host == "" {
		return false // the HTTP server shall decide
	}
	return isProbe(r) && source.Len()+reader.Buffered() == 0
}

// reread is a connection whose first bytes were read already.
type reread struct {
	net.Conn
	first *bytes.Reader
}

// Read implements net.Conn.
func (c *reread) Read(p []byte) (int, error) {
	if c.first.Len() > 0 {
		return c.first.Read(p)
	}
	return c.Conn.Read(p)
}

// CloseWrite sends the end of the stream.
func (c *reread) CloseWrite() error {
	return closeWrite(c.Conn)
}
