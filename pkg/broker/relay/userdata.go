package relay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/sidestep-agent/sidestep/pkg/broker/imdspath"
)

// userDataKey is the member of userDataParent's document that holds the VM's user data,
// where people keep secrets for the node.
const (
	userDataKey    = "userData"
	userDataParent = "/metadata/instance/compute"
)

var errNotScrubbed = errors.New("user data cannot be distinguished in the response")

// withoutUserData returns the body of a response for that path with the VM's
// user data taken out and every other byte as it was. A body that might hold
// user data where it cannot be found is errNotScrubbed.
func withoutUserData(path string, body []byte) ([]byte, error) {
	if json.Valid(body) { // which also bounds its depth
		return scrub(body)
	}
	// format=text: a leaf's value, or the names of what lies below.
	if p := imdspath.Loose(path); (p == userDataParent || strings.HasPrefix(userDataParent, p+"/")) && !listing(body) {
		return nil, errNotScrubbed
	}
	return body, nil
}

// listing reports whether the text is a list of names, one a line.
func listing(text []byte) bool {
	for line := range strings.Lines(string(text)) {
		name := strings.TrimSuffix(strings.TrimRight(line, "\r\n"), "/")
		if name != "" && !imdspath.PlainSegment(name) {
			return false
		}
	}
	return true
}

// scrub returns the valid JSON document without the members named userData, at any
// depth and in any case.
func scrub(doc []byte) ([]byte, error) {
	f := &filter{doc: doc, dec: json.NewDecoder(bytes.NewReader(doc))}
	f.dec.UseNumber() // numbers are passed over, not read
	if err := f.value(); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotScrubbed, err)
	}
	f.out.Write(doc[f.pos:])
	return f.out.Bytes(), nil
}

// filter copies a document as the decoder walks through it.
type filter struct {
	doc []byte
	dec *json.Decoder
	pos int // how much of doc is copied or left out
	out bytes.Buffer
}

// keep takes over what the decoder has read.
func (f *filter) keep() {
	end := int(f.dec.InputOffset())
	f.out.Write(f.doc[f.pos:end])
	f.pos = end
}

// value takes over the next value.
func (f *filter) value() error {
	token, err := f.dec.Token()
	if err != nil {
		return err
	}
	f.keep()
	switch token {
	case json.Delim('{'):
		err = f.members()
	case json.Delim('['):
		err = f.elements()
	}
	return err
}

// elements takes over the rest of an array.
func (f *filter) elements() error {
	for f.dec.More() {
		if err := f.value(); err != nil {
			return err
		}
	}
	_, err := f.dec.Token()
	f.keep()
	return err
}

// members takes over the rest of an object but for the members to leave out.
func (f *filter) members() error {
	for first := true; f.dec.More(); {
		key, err := f.dec.Token()
		if err != nil {
			return err
		}
		if name, ok := key.(string); ok && strings.EqualFold(name, userDataKey) {
			var left json.RawMessage
			if err := f.dec.Decode(&left); err != nil {
				return err
			}
			f.pos = int(f.dec.InputOffset())
			continue
		}
		if first {
			f.dropComma()
		}
		first = false
		f.keep()
		if err := f.value(); err != nil {
			return err
		}
	}
	_, err := f.dec.Token()
	f.keep()
	return err
}

// dropComma leaves out the comma before an object's first member, which
// stands there if the members before it were left out.
func (f *filter) dropComma() {
	rest := bytes.TrimLeft(f.doc[f.pos:], " \t\r\n")
	if bytes.HasPrefix(rest, []byte(",")) {
		f.pos = len(f.doc) - len(rest) + 1
	}
}
