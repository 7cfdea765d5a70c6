package broker

import (
	"bytes"

	"github.com/sidestep-agent/sidestep/pkg/broker/imdspath"
)

// plainRequest is a request for a token in the form that real clients give it:
// a GET of the token path in its plain spelling, with the Metadata header,
// without a body and with nothing that asks a server for more than an answer.
type plainRequest struct {
	query []byte
	close bool // the client wants the connection to end with the answer
}

var (
	plainStart = []byte("GET " + imdspath.Token + "?")
	plainEnd   = []byte(" HTTP/1.1\r\n")
	lineEnd    = []byte("\r\n")
	headerEnd  = []byte("\r\n\r\n")
)

// recognize reports whether the text is one plain request and nothing more.
// What it does not recognize is no error: net/http reads it. So it takes
// nothing that net/http could read otherwise: no line, name or value that is in
// any way unusual.
func recognize(text []byte) (r plainRequest, ok bool) {
	if text, ok = bytes.CutPrefix(text, plainStart); !ok {
		return r, false
	}
	end := bytes.IndexByte(text, ' ')
	if end < 0 || !all(text[:end], queryByte) {
		return r, false
	}
	r.query = text[:end]
	if text, ok = bytes.CutPrefix(text[end:], plainEnd); !ok {
		return r, false
	}
	var seen [fieldCount]int
	for {
		line, rest, ok := bytes.Cut(text, lineEnd)
		if text = rest; !ok {
			return r, false
		}
		if len(line) == 0 {
			return r, len(text) == 0 && seen[fieldHost] == 1 && seen[fieldMetadata] == 1 && seen[fieldConnection] <= 1
		}
		field, value, ok := plainField(line)
		if !ok {
			return r, false
		}
		seen[field]++
		r.close = r.close || field == fieldConnection && bytes.EqualFold(value, closing)
	}
}

// field is a header field, as far as a server acts upon it.
type field int

const (
	fieldOther field = iota // is not read here
	fieldHost
	fieldMetadata
	fieldConnection
	fieldRefused // says that the request is not plain
	fieldCount
)

// fields has the fields that net/http or the handler acts upon, in lower case.
var fields = map[string]field{
	"host": fieldHost, "metadata": fieldMetadata, "connection": fieldConnection,
	"content-length": fieldRefused, "transfer-encoding": fieldRefused, "trailer": fieldRefused, "te": fieldRefused,
	"expect": fieldRefused, "upgrade": fieldRefused, "http2-settings": fieldRefused, "x-forwarded-for": fieldRefused,
}

const longestField = len("transfer-encoding")

var (
	closing   = []byte("close")
	keepAlive = []byte("keep-alive")
	isTrue    = []byte("true")
)

// plainField reads a header field; false if it is none that a plain request
// may have.
func plainField(line []byte) (f field, value []byte, ok bool) {
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok || len(name) == 0 || !all(name, nameByte) {
		return f, nil, false
	}
	value = bytes.Trim(value, " \t")
	if len(name) <= longestField {
		var lower [longestField]byte
		for i, c := range name {
			if 'A' <= c && c <= 'Z' {
				c |= 0x20
			}
			lower[i] = c
		}
		f = fields[string(lower[:len(name)])]
	}
	switch f {
	case fieldHost:
		ok = len(value) > 0 && all(value, hostByte)
	case fieldMetadata:
		ok = bytes.EqualFold(value, isTrue)
	case fieldConnection:
		ok = bytes.EqualFold(value, closing) || bytes.EqualFold(value, keepAlive)
	case fieldRefused:
		ok = false
	default:
		ok = all(value, valueByte)
	}
	return f, value, ok
}

// byteClass is a set of uses that a byte may be put to in a plain request.
type byteClass uint8

const (
	nameByte byteClass = 1 << iota
	hostByte
	queryByte
	valueByte
)

// byteClasses has what each byte may be used for.
var byteClasses = func() (classes [256]byteClass) {
	for c := range byte(0x7f) {
		digit, letter := '0' <= c && c <= '9', 'a' <= c|0x20 && c|0x20 <= 'z'
		switch {
		case digit || letter || c == '-':
			classes[c] = nameByte | hostByte | queryByte | valueByte
		case c == '_':
			classes[c] = nameByte | queryByte | valueByte
		case c == '.' || c == ':':
			classes[c] = hostByte | queryByte | valueByte
		case c == ' ' || c == '\t' || c == '#':
			classes[c] = valueByte
		case c > ' ':
			classes[c] = queryByte | valueByte
		}
	}
	return classes
}()

// all reports whether each byte of the text may be used so.
func all(text []byte, as byteClass) bool {
	for _, c := range text {
		if byteClasses[c]&as == 0 {
			return false
		}
	}
	return true
}
